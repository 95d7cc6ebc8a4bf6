"""What half precision gains a unit of 16 bits on the CPU: the time of one linear layer, and the masks of sam-tiny.

    python -m benchmarks.half_units --coco COCO_FOLDER --output docs/data/half_units.json

The layer maps 4096 tokens of 768 channels to 3072, as in SAM-B. Types take turns. The masks are those of an encoder
with 16 bits everywhere under `torch.autocast`; they are compared with those that float32 gives.
About 2 minutes on one thread.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from benchmarks.agreement import compare, masks_of
from benchmarks.encoders import onnx_encoder, openvino_encoder, quantized
from benchmarks.harness import machine, medians
from mixqsam.artifact.store import load_model
from mixqsam.files import write_json
from mixqsam.pipeline.options import Data
from mixqsam.plan import HALF_BITS
from mixqsam.progress import Silent
from mixqsam.runtime.packed import PackedLinear
from mixqsam.sam.load import load_sam
from mixqsam.sam.predictor import SamPredictor

_TOKENS, _TAKEN, _MADE = 4096, 768, 3072


def linear(values: Tensor, weight: Tensor) -> Tensor:
    """A float32 product of float32 values, computed in the weight's type."""
    return functional.linear(values.to(weight.dtype), weight).float()


def write_layer(weight: Tensor, path: Path, *, half: bool) -> Path:
    """The layer as ONNX, float32 outside and float16 inside if it is to be."""
    kind, values = (TensorProto.FLOAT16, weight.half()) if half else (TensorProto.FLOAT, weight)
    stored = numpy_helper.from_array(np.ascontiguousarray(values.t().numpy()), "w")
    nodes = [
        helper.make_node("Cast", ["x"], ["taken"], to=kind),
        helper.make_node("MatMul", ["taken", "w"], ["made"]),
        helper.make_node("Cast", ["made"], ["y"], to=TensorProto.FLOAT),
    ]
    taken, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [_TOKENS, width])
        for name, width in (("x", _TAKEN), ("y", _MADE))
    )
    graph = helper.make_graph(nodes, "layer", [taken], [made], initializer=[stored])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def layers(folder: Path) -> dict[str, Callable[[], object]]:
    """The layer in each runtime and type."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(_TOKENS, _TAKEN, generator=generator)
    weight = torch.randn(_MADE, _TAKEN, generator=generator) * 0.02
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    found: dict[str, Callable[[], object]] = {
        f"PyTorch, {name}": partial(linear, values, weight.to(kind)) for name, kind in kinds.items()
    }
    whole, half = (write_layer(weight, folder / f"{half}.onnx", half=half) for half in (False, True))
    found |= {
        f"ONNX Runtime, {name}": partial(onnx_encoder(path), values.numpy())
        for name, path in (("float32", whole), ("float16", half))
    }
    return found | {
        f"OpenVINO, {name}": partial(openvino_encoder(str(whole), precision=hint), values.numpy())
        for name, hint in (("float32", "f32"), ("bfloat16", "bf16"))
    }


class _Halved(SamPredictor):
    """A predictor whose encoder computes in bfloat16 where it may."""

    def set_image(self, *image: Any, **named: Any) -> None:
        """Encode an image."""
        with torch.autocast("cpu", torch.bfloat16):
            super().set_image(*image, **named)


def agreement(coco: Path, *, count: int) -> dict[str, Any]:
    """IoU of the masks of an encoder with 16 bits in bfloat16 with those in float32."""
    data = Data(coco / "val2017", coco / "annotations/instances_val2017.json")
    samples = [one for one in data.samples(count=count, progress=Silent())[:count] if len(one.prompts)]
    with tempfile.TemporaryDirectory() as name:
        sam, _ = load_model(quantized(load_sam("sam-tiny"), HALF_BITS, samples[:1], Path(name)), integer=True)
    reference, found = (masks_of(kind(sam), samples) for kind in (SamPredictor, _Halved))
    stored = {str(one.weight.dtype) for one in sam.model.modules() if isinstance(one, PackedLinear)}
    return {"images": len(samples), "masks": len(found), "stored": sorted(stored), **compare(found, reference)}


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--count", type=int, default=24, help="images")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        actions = layers(Path(name))
        for action in actions.values():
            action()
        seconds = medians(actions, repeats=arguments.runs)
    result = {"machine": machine(), "seconds": seconds, "agreement": agreement(arguments.coco, count=arguments.count)}
    write_json(arguments.output, result)
    print(result)


if __name__ == "__main__":
    main()
