"""What a quantized directory holds, and how it is written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.uniform import uniform_label
from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import save_model
from mixqsam.directories import new_directory
from mixqsam.evaluation.evaluate import EvaluationResult
from mixqsam.evaluation.interval import find_mean_interval
from mixqsam.files import write_bytes, write_json
from mixqsam.measurements import Analysis
from mixqsam.pipeline.card import make_card
from mixqsam.pipeline.check import Check
from mixqsam.pipeline.provenance import machine, versions
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import ANALYSIS, MARKER
from mixqsam.quantization.quantize import Quantized
from mixqsam.quantization.recipe import Recipe
from mixqsam.reporting.card import NAME as CARD
from mixqsam.reporting.histogram import count_ious
from mixqsam.reporting.page import ReportContent, write_page
from mixqsam.reporting.record import NAME, CalibrationImages, Figures, Latency, Piece, Run, Search
from mixqsam.reporting.summary import write_summary
from mixqsam.reporting.units import NAME as UNITS
from mixqsam.reporting.units import write_units

PAGE = "report.html"
SUMMARY = "summary.md"


@dataclass(frozen=True)
class QuantizedModel:
    """Content of the quantized directory.

    Attributes:
        quantized: the model, and how its reconstruction went.
        analysis, allocation: analysis and allocation of the model.
        uniform: the largest uniform model within the budget, if any.
        check: quality of the finished models.
        recipe: how weights are rounded.
        calibration: images of the calibration.
        search: the search for a quality, if the budget names one.
        latency: predicted and measured latency, if the budget limits it.
    """

    quantized: Quantized
    analysis: Analysis
    allocation: Allocation
    uniform: Allocation | None
    check: Check
    recipe: Recipe
    calibration: CalibrationImages
    search: Search | None = None
    latency: Latency | None = None


def write_quantized(
    finished: QuantizedModel, output: Path, *, session: Session, overwrite: bool, options: Mapping[str, Any]
) -> Run:
    """Write a quantized directory, with its report; return the record of the run.

    Args:
        finished: content.
        output: the directory; after an error nothing is written.
        session: seconds of the stages, and the command.
        overwrite: replace a directory that mixqsam wrote.
        options: all options of the run, for its record.
    """
    analysis, allocation, check = finished.analysis, finished.allocation, finished.check
    manifest = Manifest.of(
        finished.quantized.sam,
        allocation.plan,
        recipe=finished.recipe.name,
        prompts_per_image=analysis.costs.prompts_per_image,
    )
    with new_directory(output, overwrite=overwrite, marker=MARKER) as folder:
        with session.timed("writing"):
            file_bytes = save_model(finished.quantized.sam, manifest, folder)
        run = Run(
            command=session.command,
            options=dict(options),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=finished.recipe.name,
            versions=versions(),
            machine=machine(),
            seconds=session.seconds,
            models=_figures(analysis, allocation, finished.uniform, check.results),
            check=check.images,
            calibration=finished.calibration,
            file_bytes=file_bytes,
            reconstruction=[Piece(**asdict(log)) for log in finished.quantized.logs],
            examples=[drawn.example for drawn in check.examples],
            search=finished.search,
            latency=finished.latency,
        )
        write_json(folder / ANALYSIS, analysis.to_json())
        write_json(folder / MARKER, allocation.to_json())
        write_json(folder / NAME, run.model_dump())
        for drawn in check.examples:
            for name, content in drawn.contents.items():
                write_bytes(folder / name, content)
        summary = write_summary(analysis, plan=allocation.plan, allocation=allocation.to_json(), run=run)
        write_bytes(folder / SUMMARY, summary.encode())
        write_bytes(folder / UNITS, write_units(analysis, allocation.plan).encode())
        pictures = {name: content for drawn in check.examples for name, content in drawn.contents.items()}
        page = write_page(ReportContent(analysis, allocation.to_json(), run, pictures))
        write_bytes(folder / PAGE, page.encode())
        write_bytes(folder / CARD, make_card(analysis, allocation.to_json(), run).encode())
    return run


def _figures(
    analysis: Analysis, allocation: Allocation, uniform: Allocation | None, results: Mapping[str, EvaluationResult]
) -> dict[str, Figures]:
    costs = analysis.costs
    plans = {"float": costs.float_plan}
    plans |= {"uniform": uniform.plan} if uniform else {}
    plans[allocation.kind] = allocation.plan
    return {
        name: make_figures(
            results.get(name),
            size=costs.size(plan),
            bitops=costs.bitops(plan),
            bits=uniform_label(analysis, uniform) if uniform and name == "uniform" else "",
        )
        for name, plan in plans.items()
    }


def make_figures(result: EvaluationResult | None, *, size: float, bitops: float, bits: str = "") -> Figures:
    """Make the figures of a model from its costs and its evaluation result."""
    fidelity = result.fidelity if result else None
    by_image = [score.ious for score in result.by_image] if result else []
    return Figures(
        bits=bits,
        size=size,
        bitops=bitops,
        mean_iou=fidelity.mean_iou if fidelity else None,
        mean_iou_interval=find_mean_interval(by_image),
        iou_counts=count_ious([iou for ious in by_image for iou in ious]) if by_image else [],
        truth_iou=result.truth_iou if result else None,
        ap=result.coco.ap if result and result.coco else None,
        kl=fidelity.kl["bernoulli"] if fidelity else None,
    )
