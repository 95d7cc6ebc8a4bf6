"""Write the Markdown summary of a quantized directory: one screen, and the names of the calibration images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mixqsam.measurements import Analysis
from mixqsam.options.numbers import format_giga
from mixqsam.plan import BitPlan
from mixqsam.reporting.latency import tabulate_latency
from mixqsam.reporting.record import CalibrationImages, Figures, Latency, Piece, Run, Search
from mixqsam.reporting.searched import HEADINGS, describe_search
from mixqsam.reporting.verdict import describe_missing_uniform, describe_verdict


def write_summary(analysis: Analysis, *, plan: BitPlan, allocation: Mapping[str, Any], run: Run) -> str:
    """Write the summary.

    Args:
        analysis: importance and synergy of the units.
        plan: the bits.
        allocation: allocation as JSON.
        run: record of the run.
    """
    lines = [
        f"# {analysis.model}, quantized by mixqsam",
        "",
        describe_verdict(run),
        "",
        f"Budget: `{allocation['budget']['text']}`. {f'Preset: `{run.preset}`. ' if run.preset else ''}"
        f"Recipe: `{run.recipe}`. {_describe_calibration(analysis, run)}",
        "",
        *_models(run.models),
        *_describe_evaluation(run),
        "",
        *_search(run.search),
        *_latency(run.latency),
        f"`model.safetensors` has {run.file_bytes:,} bytes. The bits above, with all scales and float tensors, have "
        f"{allocation['size']:,.0f} bytes; the file adds a header and padding.",
        "",
        *_proof(allocation),
        "",
        *_reconstruction(run.reconstruction),
        *_histogram(analysis, plan),
        "",
        "`units.csv` has the bits of every unit.",
        "",
        *_calibration_images(run.calibration),
        "## Time",
        "",
        "| stage | seconds |",
        "|---|---:|",
        *(f"| {stage} | {value:.1f} |" for stage, value in run.seconds.items()),
        "",
        "Stages from the cache take almost no time.",
        "",
    ]
    return "\n".join(lines)


def _search(search: Search | None) -> list[str]:
    if search is None:
        return []
    rows = [
        f"| {one.size / 1e6:.2f} MB | {format_giga(one.bitops)} G | {one.quality:.4f} "
        f"| {'yes' if one.quality >= search.target else 'no'} |"
        for one in search.tried
    ]
    head = [f"| tried size | BitOps per image | {HEADINGS[search.metric]} | enough |", "|---:|---:|---:|---|"]
    return ["## Size against quality", "", " ".join(describe_search(search)), "", *head, *rows, ""]


def _latency(latency: Latency | None) -> list[str]:
    if latency is None:
        return []
    head, *rows = [f"| {' | '.join(row)} |" for row in tabulate_latency(latency)]
    about = f"Medians of {latency.runs} runs in turns. The prediction is the sum of the times of the units."
    return [f"## Latency with {latency.backend}", "", head, "|---|---:|---:|---:|", *rows, "", about, ""]


def _describe_calibration(analysis: Analysis, run: Run) -> str:
    if run.calibration is None:
        return f"Calibrated on {analysis.images} images."
    return f"Calibrated on the {analysis.images} images below, drawn with seed {run.calibration.seed}."


def _describe_evaluation(run: Run) -> list[str]:
    check = run.check
    if check is None:
        return []
    of_kind = f" ({check.kind})" if check.kind else ""
    usage = "used them, too" if check.seen else "did not use them"
    measured = (
        f"Quality is measured on {check.images} images with {check.prompts} prompts{of_kind}; the calibration {usage}."
    )
    return ["", " ".join([measured, *describe_missing_uniform(run)])]


def _calibration_images(calibration: CalibrationImages | None) -> list[str]:
    if calibration is None:
        return []
    return ["## Calibration images", "", ", ".join(f"`{name}`" for name in calibration.images), ""]


def _models(models: Mapping[str, Figures]) -> list[str]:
    measured = any(figures.mean_iou is not None for figures in models.values())
    rows = ["| model | size | BitOps per image |", "|---|---:|---:|"]
    if measured:
        rows = [f"{rows[0]} mean IoU with float masks |", f"{rows[1]}---:|"]
    for name, figures in models.items():
        label = f"{name} {figures.bits}".strip()
        row = f"| {label} | {figures.size / 1e6:.2f} MB | {format_giga(figures.bitops)} G |"
        fidelity = "1" if name == "float" else "–" if figures.mean_iou is None else f"{figures.mean_iou:.3f}"
        rows.append(f"{row} {fidelity} |" if measured else row)
    return rows


def _proof(allocation: Mapping[str, Any]) -> list[str]:
    objective = allocation["objective"]
    if objective is None:
        return ["All units have the same bits; they were not optimised."]
    state = "proven optimal" if allocation["gap"] == 0 else f"within {allocation['gap']:.2%} of the optimum"
    used = [
        f"{label} {allocation[key] / limit:.2%}"
        for key, label in (("size", "size"), ("bitops", "BitOps"), ("latency", "latency"))
        if (limit := allocation["budget"].get(key))
    ]
    return [
        f"Allocation: P_Y `{objective['output']}`, utility `{objective['utility']}`, "
        f"synergy `{objective['synergy']}` with λ = {objective['coupling']:g}. {state.capitalize()}: "
        f"objective {allocation['value']:.6g}, bound {allocation['bound']:.6g}, {allocation['seconds']:.2f} s. "
        f"It uses {', '.join(used)} of the budget."
    ]


def _reconstruction(logs: Sequence[Piece]) -> list[str]:
    if not logs:
        return []
    before, after = (sum(getattr(log, name) for log in logs) for name in ("before", "after"))
    return [
        f"{len(logs)} pieces were reconstructed. Their losses went from {before:.4g} (rounded to nearest) to "
        f"{after:.4g} (as deployed) in sum; `report.html` lists them.",
        "",
    ]


def _histogram(analysis: Analysis, plan: BitPlan) -> list[str]:
    weights: Counter[int] = Counter()
    for unit in analysis.units:
        weights[plan.bits[unit.name].weight] += unit.parameters
    total = max(1, sum(weights.values()))
    activations = Counter(plan.bits[unit.name].activation for unit in analysis.units)
    rows = ["## Bits", "", "| bits | share of weights | units with these activation bits |", "|---:|---:|---:|"]
    used = sorted(set(weights) | set(activations))
    return rows + [f"| {bits} | {weights[bits] / total:.1%} | {activations[bits]} |" for bits in used]
