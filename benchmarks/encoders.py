"""Image encoders of several runtimes as functions from a frame to its embedding, for the other benchmarks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import SamModel

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import save_model
from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.plan import FLOAT, BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import find_recipe
from mixqsam.sam.load import Sam
from mixqsam.weight_grids import GridLibrary

Array = np.ndarray[Any, Any]
Encoder = Callable[[Array], Array]


def quantized(sam: Sam, bits: int, samples: Sequence[Sample], folder: Path, *, products: bool = True) -> Path:
    """A directory of the model with a quantized encoder and a float decoder."""
    plan = BitPlan(
        {
            unit.name: UnitBits(bits, bits)
            if unit.part == "encoder" and (products or unit.kind != "product")
            else FLOAT
            for unit in sam.costs().units
        }
    )
    made = quantize(
        sam,
        plan,
        samples,
        recipe=find_recipe("omse"),
        cache=Cache(folder / "cache"),
        progress=Silent(),
        grids=GridLibrary(),
    ).sam
    out = folder / f"W{bits}{'' if products else '-float-products'}"
    out.mkdir()
    save_model(made, Manifest.of(made, plan, recipe="omse", prompts_per_image=1), out)
    return out


def torch_encoder(model: SamModel) -> Encoder:
    """An encoder in PyTorch."""

    def run(frame: Array) -> Array:
        with torch.no_grad():
            found: Array = model.vision_encoder(torch.from_numpy(frame)).last_hidden_state.numpy()
        return found

    return run


def onnx_encoder(path: Path) -> Encoder:
    """An encoder in ONNX Runtime, with the number of threads of PyTorch."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda frame: np.asarray(session.run(None, {"x": frame})[0])


def openvino_encoder(model: Any, *, precision: str | None = None) -> Encoder:
    """An encoder in OpenVINO (a model or a path), with the number of threads of PyTorch."""
    import openvino  # noqa: PLC0415

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda frame: np.array(request.infer({"x": frame})[0])
