"""Compare mixqsam's and other quantized image encoders: speed, size and fidelity to the float model.

    python -m benchmarks.backends --size b --output docs/data/backends.json            # speed, random weights
    python -m benchmarks.backends --coco COCO_FOLDER --output docs/data/fidelity.json  # sam-tiny, real photographs

Others: ONNX Runtime's and OpenVINO's own float, ONNX Runtime's static quantization, NNCF's default post-training
quantization, torchao's int8 (dynamic activations). All start from the same float encoder, and all use the float
decoder. Needs `pip install nncf torchao` in addition to the extras; missing libraries are skipped.

Encoders alternate in one process. ViT-B takes about 10 minutes on 2 cores, the photographs about 5.
"""

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import SamConfig, SamModel

from benchmarks.encoders import Array, Encoder, onnx_encoder, openvino_encoder, quantized, torch_encoder
from benchmarks.harness import machine, medians
from benchmarks.importance_cost import SIZES, photograph, random_sam
from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import load_model
from mixqsam.data.samples import Sample, draw_calibration_samples
from mixqsam.exporting.files import ExportOptions, encoder_model, save_onnx
from mixqsam.families import prepare
from mixqsam.families.family import Maps
from mixqsam.files import write_json
from mixqsam.pipeline.options import Data
from mixqsam.progress import Silent
from mixqsam.sam.forward import decode as decode_prompts
from mixqsam.sam.forward import encode, full_logits, make_frame, prompt_tensors
from mixqsam.sam.load import Sam, default_processor, load_sam


def ours(directory: Path, folder: Path, label: str) -> dict[str, Encoder]:
    """Our encoder of a quantized directory in every backend."""
    sam, manifest = load_model(directory, integer=True)
    found = {f"mixqsam {label}, PyTorch": torch_encoder(sam.model)}
    sliced, whole = folder / f"{directory.name}.sliced.onnx", folder / f"{directory.name}.onnx"
    save_onnx(encoder_model(sam, manifest, ExportOptions(), sliced=True)[0], sliced)
    save_onnx(encoder_model(sam, manifest, ExportOptions(), sliced=False)[0], whole)
    found[f"mixqsam {label}, ONNX Runtime"] = onnx_encoder(sliced)
    found[f"mixqsam {label}, OpenVINO"] = openvino_encoder(str(whole))
    return found


def peers(plain: SamModel, sam: Sam, frames: Sequence[Array], folder: Path) -> dict[str, Encoder]:
    """Other encoders, if their libraries are installed and their calibration fits in memory."""
    np.save(folder / "frames.npy", np.concatenate(frames))
    float_openvino = converted(plain, frames[0], folder / "float.xml")
    static, nncf = folder / "static.onnx", folder / "nncf.xml"
    float_onnx = write_float(sam, folder / "float.onnx", sliced=False)
    # With attention in one piece, its calibration needs more than 20 GB at 1024 pixels.
    _apart(_static, write_float(sam, folder / "float.sliced.onnx", sliced=True), folder / "frames.npy", static)
    _apart(_nncf, float_openvino, folder / "frames.npy", nncf)
    makers: dict[str, Callable[[], Encoder]] = {
        "ONNX Runtime float32": lambda: onnx_encoder(float_onnx),
        "OpenVINO bf16": lambda: openvino_encoder(str(float_openvino), precision="bf16"),
        "ONNX Runtime static int8": lambda: onnx_encoder(static),
        "NNCF int8, OpenVINO": lambda: openvino_encoder(str(nncf)),
        "torchao int8 dynamic": lambda: torch_encoder(_torchao(plain)),
    }
    missing = {
        name
        for name, file in (("ONNX Runtime static int8", static), ("NNCF int8, OpenVINO", nncf))
        if not file.exists()
    }
    found = {}
    for name, make in makers.items():
        if name in missing:
            continue
        try:
            found[name] = make()
        except ImportError as error:
            print(f"{name} is skipped: {error}")
    return found


def _apart(make: Callable[[Path, Path, Path], None], source: Path, frames: Path, target: Path) -> None:
    """Run in a separate process, because a calibration may run out of memory."""
    process = multiprocessing.get_context("spawn").Process(target=make, args=(source, frames, target))
    process.start()
    process.join()
    if process.exitcode:
        print(f"{target.name} was not made (exit code {process.exitcode}; -9 is out of memory)")


def _static(source: Path, frames: Path, target: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(np.load(frames))

        def get_next(self) -> dict[str, Array] | None:
            frame = next(self._left, None)
            return None if frame is None else {"x": frame[None]}

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class _Embedding(torch.nn.Module):
    """The encoder with its one output."""

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        self.encoder = model.vision_encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embedding of a frame."""
        found: torch.Tensor = self.encoder(x).last_hidden_state
        return found


def converted(plain: SamModel, frame: Array, target: Path) -> Path:
    """The float encoder as OpenVINO's own converter makes it."""
    import openvino  # noqa: PLC0415

    with torch.no_grad():
        made = openvino.convert_model(_Embedding(plain), example_input=torch.from_numpy(frame), input=[frame.shape])
    made.inputs[0].set_names({"x"})
    openvino.save_model(made, target, compress_to_fp16=False)
    return target


def _nncf(source: Path, frames: Path, target: Path) -> None:
    import nncf  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    dataset = nncf.Dataset([{"x": frame[None]} for frame in np.load(frames)])
    openvino.save_model(nncf.quantize(openvino.Core().read_model(source), dataset), target, compress_to_fp16=False)


def _torchao(plain: SamModel) -> SamModel:
    import copy  # noqa: PLC0415

    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_  # noqa: PLC0415

    model = copy.deepcopy(plain)
    quantize_(model.vision_encoder, Int8DynamicActivationInt8WeightConfig())
    return model


def write_float(sam: Sam, path: Path, *, sliced: bool) -> Path:
    """The float encoder as ONNX."""
    manifest = Manifest.of(sam, sam.costs().float_plan, recipe="none", prompts_per_image=1)
    save_onnx(encoder_model(sam, manifest, ExportOptions(), sliced=sliced)[0], path)
    return path


def speed(size: str, runs: int) -> dict[str, Any]:
    """Encoder times on a random model of full size, alternating."""
    config = SamConfig(vision_config=SIZES[size])
    plain = random_sam(config, implementation="sdpa")
    sam = Sam(prepare(random_sam(config, implementation="eager")), default_processor(config), f"vit-{size}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = photograph(folder)
        frame = make_frame(sam, sample.open()).pixels.numpy()
        encoders: dict[str, Encoder] = {"PyTorch float32": torch_encoder(plain)}
        for bits, products in ((8, True), (4, True), (8, False)):
            label = f"W{bits}A{bits}" + ("" if products else ", float products")
            encoders |= ours(quantized(sam, bits, [sample], folder, products=products), folder, label)
        encoders |= peers(plain, sam, [frame], folder)
        actions = {name: partial(run, frame) for name, run in encoders.items()}
        for action in actions.values():
            action()
        return {"machine": machine(), "seconds": medians(actions, repeats=runs)}


def fidelity(coco: Path, runs: int) -> dict[str, Any]:
    """Mean IoU with the float model's masks on photographs, and encoder times, of sam-tiny."""
    sam = load_sam("sam-tiny")
    plain = SamModel.from_pretrained(Path(sam_path()), attn_implementation="sdpa").eval().requires_grad_(False)
    train = Data(coco / "train2017", coco / "annotations/instances_train2017.json")
    val = Data(coco / "val2017", coco / "annotations/instances_val2017.json")
    samples = draw_calibration_samples(
        train.samples(count=32, progress=Silent()), count=32, prompts=8, progress=Silent()
    )
    frames = [make_frame(sam, sample.open()).pixels.numpy() for sample in samples]
    judged = [sample for sample in val.samples(count=100, progress=Silent())[:100] if len(sample.prompts)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        encoders: dict[str, Encoder] = {"PyTorch float32": torch_encoder(plain)}
        for bits, products in ((8, True), (8, False)):
            which = f"W{bits}A{bits}" + ("" if products else ", float products")
            encoders |= ours(quantized(sam, bits, samples, folder, products=products), folder, which)
        encoders |= peers(plain, sam, frames, folder)
        ious: dict[str, list[float]] = {label: [] for label in encoders}
        for sample in judged:
            for label, own in _masks(sam, encoders, sample, sample.open()).items():
                ious[label] += own
        actions = {name: partial(run, frames[0]) for name, run in encoders.items()}
        seconds = medians(actions, repeats=runs)
    return {
        "machine": machine(),
        "masks": len(ious["PyTorch float32"]),
        "mean_iou": {name: float(np.mean(values)) for name, values in ious.items()},
        "seconds": seconds,
    }


def sam_path() -> str:
    """Directory of the embedded model."""
    from importlib import resources  # noqa: PLC0415

    return str(resources.files("mixqsam") / "assets" / "sam-tiny")


def _masks(sam: Sam, encoders: Mapping[str, Encoder], sample: Sample, image: Image.Image) -> dict[str, list[float]]:
    """IoU of each encoder's masks with those of the float one; the decoder is the float model's."""
    frame = make_frame(sam, image)
    prompts = prompt_tensors(sam, sample.prompts, frame)

    def masks(maps: Maps) -> Array:
        logits, _ = decode_prompts(sam, maps, prompts)
        found: Array = (full_logits(logits, frame)[:, 0] > 0).numpy()
        return found

    expected = masks(encode(sam, frame))
    embeddings = {name: torch.from_numpy(run(frame.pixels.numpy())) for name, run in encoders.items()}
    return {
        name: [_iou(a, b) for a, b in zip(masks({"embedding": embedding}), expected, strict=True)]
        for name, embedding in embeddings.items()
    }


def _iou(first: Array, second: Array) -> float:
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 1.0


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="b")
    parser.add_argument("--coco", type=Path, help="measure fidelity on these photographs instead")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    found = fidelity(arguments.coco, arguments.runs) if arguments.coco else speed(arguments.size, arguments.runs)
    write_json(arguments.output, found)
    print(found)


if __name__ == "__main__":
    main()
