"""The demonstration: MobileSAM, or the embedded model, on photographs that come with Python packages; all stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mixqsam.allocation.budget import Budget
from mixqsam.data.demo import CALIBRATION, EVALUATION, demo_samples
from mixqsam.data.samples import Sample
from mixqsam.errors import ModelError
from mixqsam.files import write_bytes
from mixqsam.pipeline.options import AnalysisOptions, Evaluation, Options, QuantizationOptions
from mixqsam.pipeline.quantize import Result, run_quantization
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import calibration_samples, load, quantize_model
from mixqsam.plan import BitPlan
from mixqsam.progress import Progress
from mixqsam.reporting.overlay import draw_overlay, png_bytes, side_by_side, stack
from mixqsam.sam.load import EMBEDDED, Sam
from mixqsam.sam.predictor import SamPredictor
from mixqsam.sam.released import find_release

RELEASED = "mobile-sam"
_OPTIONS = AnalysisOptions(count=len(CALIBRATION))


class DemoData:
    """The demonstration's calibration photographs, where other jobs take a user's folder."""

    annotations = None

    def samples(self, *, count: int | None, progress: Progress, seed: int | None = None) -> list[Sample]:
        """Photographs with boxes."""
        del count, progress, seed
        return demo_samples(CALIBRATION)


class DemoEvaluation:
    """The photographs that the demonstration compares models on: the calibration has not seen them."""

    annotations = None

    def samples(self, *, count: int | None, progress: Progress, seed: int | None = None) -> list[Sample]:
        """Photographs with boxes, and with a grid of points."""
        del count, progress, seed
        return demo_samples(EVALUATION, grid=4)


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made.

    Attributes:
        result: of the quantization; its `check` is on photographs that the calibration has not seen.
        overlay: the picture.
    """

    result: Result
    overlay: Path


def choose_demo_model(progress: Progress) -> str:
    """MobileSAM where the cache or the hub has it, otherwise the embedded model; `progress` hears why."""
    try:
        find_release(RELEASED)
    except ModelError as error:
        progress.note(f"{error} The demonstration runs on {EMBEDDED} instead.")
        return EMBEDDED
    return RELEASED


def run_demo(output: Path, *, budget: Budget, session: Session, model: str | None = None) -> DemoResult:
    """Quantize a model at a budget, and compare float, uniform and mixed on new photographs.

    Args:
        output: `quantized/` and `overlay.png` are written into it.
        budget: what the model may cost.
        session: cache and progress.
        model: float checkpoint; None for MobileSAM, or the embedded model where MobileSAM is not at hand.
    """
    model = model or choose_demo_model(session.progress)
    result = run_quantization(
        model,
        DemoData(),
        budget=budget,
        output=output / "quantized",
        options=Options(analysis=_OPTIONS),
        session=session,
        overwrite=True,
        evaluation=Evaluation(DemoEvaluation()),
    )
    models = {"float": load(model, device=session.device)}
    if result.uniform is not None:
        models["uniform"] = _uniform_model(models["float"], result.uniform.plan, session=session)
    models["mixed"] = load(output / "quantized", device=session.device)
    overlay = output / "overlay.png"
    write_bytes(overlay, _picture({name: SamPredictor(model) for name, model in models.items()}))
    return DemoResult(result, overlay)


def _uniform_model(sam: Sam, plan: BitPlan, *, session: Session) -> Sam:
    samples = calibration_samples(DemoData(), _OPTIONS, session)
    return quantize_model(sam, plan, samples, options=QuantizationOptions(), session=session).sam


def _picture(predictors: Mapping[str, SamPredictor]) -> bytes:
    rows = []
    for sample in demo_samples(EVALUATION):
        image = sample.open()
        pictures = {}
        for name, predictor in predictors.items():
            predictor.set_image(image)
            masks = predictor.segment(sample.prompts).masks[:, 0]
            pictures[name] = draw_overlay(image, masks, sample.prompts)
        rows.append(side_by_side(pictures, height=280))
    return png_bytes(stack(rows))
