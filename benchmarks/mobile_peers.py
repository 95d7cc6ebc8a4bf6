"""How the tools of others quantize MobileSAM's float encoder; see benchmarks.peers_mobile_sam."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.encoders import Array

# Ours: 8 bits for all, and bits that the program chose at the size of 8 and of 6 bits for all.
OURS = ("uniform:W8A8", "W8A8", "W6A6")


@dataclass(frozen=True)
class Static:
    """A setting of ONNX Runtime's static quantization.

    Attributes:
        title: as the table calls it.
        method: name of its calibration.
        per_channel: of weights.
    """

    title: str
    method: str
    per_channel: bool


STATIC = {
    "ort": Static("default", "MinMax", per_channel=False),
    "ort-channels": Static("per channel", "MinMax", per_channel=True),
    "ort-percentile": Static("per channel, percentile", "Percentile", per_channel=True),
    "ort-entropy": Static("per channel, entropy", "Entropy", per_channel=True),
}
NNCF = {
    "nncf": "default",
    "nncf-transformer": "transformer type",
    "nncf-smooth": "SmoothQuant 0.5",
    "nncf-mixed": "mixed preset",
    "nncf-accuracy": "accuracy control",
}
# Images that accuracy control looks at, of those that calibrate, and the error of the embedding that it allows.
_VALIDATED, _DROP = 8, 0.01


def make_static(source: Path, frames: Path, target: Path, settings: Static) -> None:
    """Write a file of ONNX Runtime's static quantization."""
    from onnxruntime.quantization import (  # noqa: PLC0415
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        calibrate,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, arrays: Any) -> None:
            self._left = iter(arrays)

        def get_next(self) -> dict[str, Array] | None:
            frame = next(self._left, None)
            return None if frame is None else {"x": np.ascontiguousarray(frame[None])}

    # Its histograms hold the activations of all images that they are given at once: one at a time is given.
    whole = calibrate.HistogramCalibrater.collect_data

    def one_by_one(self: Any, reader: CalibrationDataReader) -> None:
        while (inputs := reader.get_next()) is not None:
            whole(self, Reader(inputs["x"]))

    calibrate.HistogramCalibrater.collect_data = one_by_one
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Reader(np.load(frames, mmap_mode="r")),
        quant_format=QuantFormat.QDQ,
        per_channel=settings.per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, settings.method),
    )
    prepared.unlink()


def make_nncf(source: Path, frames: Path, target: Path, key: str) -> None:
    """Write a file of NNCF's post-training quantization."""
    import nncf  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    model, held = openvino.Core().read_model(source), np.load(frames, mmap_mode="r")
    dataset = nncf.Dataset([{"x": np.ascontiguousarray(frame[None])} for frame in held])
    # It fails on the table of attention's biases, which is gathered.
    settings: dict[str, Any] = {"subset_size": len(held), "ignored_scope": nncf.IgnoredScope(types=["Gather"])}
    if key in {"nncf-transformer", "nncf-smooth"}:
        settings["model_type"] = nncf.ModelType.TRANSFORMER
    if key == "nncf-smooth":
        smooth = nncf.AdvancedSmoothQuantParameters(convolution=0.5, matmul=0.5)
        settings["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smooth)
    if key == "nncf-mixed":
        settings["preset"] = nncf.QuantizationPreset.MIXED
    if key == "nncf-accuracy":
        made = nncf.quantize_with_accuracy_control(
            model, dataset, _validation(held), _validate(model, held), max_drop=_DROP, **settings
        )
    else:
        made = nncf.quantize(model, dataset, **settings)
    unfinished = target.with_name(f"unfinished-{target.name}")
    openvino.save_model(made, unfinished, compress_to_fp16=False)
    unfinished.with_suffix(".bin").replace(target.with_suffix(".bin"))
    unfinished.replace(target)


def _validation(held: Any) -> Any:
    import nncf  # noqa: PLC0415

    frames = [np.ascontiguousarray(frame[None]) for frame in held[:_VALIDATED]]
    return nncf.Dataset(
        [{"x": frame, "index": index} for index, frame in enumerate(frames)], lambda one: {"x": one["x"]}
    )


def _validate(model: Any, held: Any) -> Any:
    """A measure for accuracy control: 1 less the relative squared error of the embedding."""
    import openvino  # noqa: PLC0415

    plain = openvino.Core().compile_model(model, "CPU")
    expected = [plain({"x": held[index : index + 1]})[0] for index in range(min(_VALIDATED, len(held)))]

    def validate(compiled: Any, data: Any) -> tuple[float, list[float]]:
        scores = []
        for one in data:
            right = expected[one["index"]]
            scores.append(1 - float(((compiled({"x": one["x"]})[0] - right) ** 2).sum() / (right**2).sum()))
        return float(np.mean(scores)), scores

    return validate


def _quanto_model() -> Any:
    from mixqsam.sam.load import load_sam  # noqa: PLC0415

    return load_sam("mobile-sam").model


def make_quanto(frames: Path, target: Path) -> None:
    """Write the state of optimum-quanto's encoder: 8-bit weights, 8-bit activations."""
    from optimum.quanto import Calibration, freeze, qint8, quantize  # noqa: PLC0415

    model = _quanto_model()
    # Its normalisation takes channels last only.
    quantize(model.vision_encoder, weights=qint8, activations=qint8, exclude=["*norm*"])
    with torch.no_grad(), Calibration():
        for frame in np.load(frames, mmap_mode="r"):
            model.vision_encoder(torch.from_numpy(frame[None].copy()))
    freeze(model.vision_encoder)
    torch.save(model.vision_encoder.state_dict(), target)


def load_quanto(path: Path) -> Any:
    """A model with the encoder that `make_quanto` wrote."""
    from optimum.quanto import freeze, qint8, quantize  # noqa: PLC0415

    model = _quanto_model()
    # Its normalisation takes channels last only.
    quantize(model.vision_encoder, weights=qint8, activations=qint8, exclude=["*norm*"])
    freeze(model.vision_encoder)
    # Written by this program, in its own folder; its tensors are of quanto's classes.
    state = torch.load(path, weights_only=False)
    model.vision_encoder.load_state_dict(state, assign=True)
    return model
