"""The demonstration: all stages with MobileSAM or the embedded model, on photographs of installed Python packages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mixqsam.allocation.budget import Budget
from mixqsam.data.demo import CALIBRATION, EVALUATION, demo_samples
from mixqsam.data.samples import Sample
from mixqsam.errors import BudgetError, ModelError
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
# Fewer draws than the default: a draw of MobileSAM takes about ten seconds of processor time.
_OPTIONS = AnalysisOptions(count=len(CALIBRATION), fisher_draws=12)
# Compensation would take the demonstration twice as long, and four images are few for it.
_ROUNDING = QuantizationOptions("omse")


class DemoData:
    """The demonstration's calibration photographs."""

    annotations = None

    def samples(self, *, count: int | None, progress: Progress, seed: int | None = None) -> list[Sample]:
        """Photographs with boxes."""
        del count, progress, seed
        return demo_samples(CALIBRATION)


class DemoEvaluation:
    """The photographs of the demonstration's comparison; the calibration does not use them."""

    annotations = None

    def samples(self, *, count: int | None, progress: Progress, seed: int | None = None) -> list[Sample]:
        """Photographs with boxes, and with a grid of points."""
        del count, progress, seed
        return demo_samples(EVALUATION, grid=4)


@dataclass(frozen=True)
class DemoResult:
    """Result of the demonstration.

    Attributes:
        result: result of the quantization; its `check` is on photographs that the calibration does not use.
        overlay: path of the picture.
    """

    result: Result
    overlay: Path


def choose_demo_model(progress: Progress) -> str:
    """Choose MobileSAM if the cache or the hub has it, otherwise the embedded model with a note about the reason."""
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
        budget: limits of size and BitOps.
        session: cache and progress.
        model: float checkpoint; None for MobileSAM, or the embedded model without a checkpoint of MobileSAM.

    Raises:
        BudgetError: the budget names a quality.
    """
    if budget.quality is not None:
        raise BudgetError(
            f"The demonstration has too few photographs to judge a quality such as {budget.quality}. Give a budget "
            f'such as W6A6, or your own images: mixqsam quantize --images FOLDER --budget "{budget}" -o out.'
        )
    model = model or choose_demo_model(session.progress)
    result = run_quantization(
        model,
        DemoData(),
        budget=budget,
        output=output / "quantized",
        options=Options(analysis=_OPTIONS, quantization=_ROUNDING),
        session=session,
        overwrite=True,
        evaluation=Evaluation(DemoEvaluation()),
    )
    models = {"float": load(model, device=session.device)}
    kind = result.allocation.kind
    if result.uniform is not None and kind == "mixed":
        models["uniform"] = _uniform_model(models["float"], result.uniform.plan, session=session)
    models[kind] = load(output / "quantized", device=session.device)
    overlay = output / "overlay.png"
    write_bytes(overlay, _draw_overlay({name: SamPredictor(model) for name, model in models.items()}))
    return DemoResult(result, overlay)


def _uniform_model(sam: Sam, plan: BitPlan, *, session: Session) -> Sam:
    samples = calibration_samples(DemoData(), _OPTIONS, session)
    return quantize_model(sam, plan, samples, options=_ROUNDING, session=session).sam


def _draw_overlay(predictors: Mapping[str, SamPredictor]) -> bytes:
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
