"""The Markdown summary that lies beside every quantized model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixqsam.plan import Analysis, BitPlan
from mixqsam.reporting.network import ranks
from mixqsam.reporting.record import Calibration, Check, Figures, Piece, Run
from mixqsam.reporting.shares import unit_shares


def write_summary(analysis: Analysis, *, plan: BitPlan, allocation: Mapping[str, Any], run: Run) -> str:
    """The summary's text.

    Args:
        analysis: what was measured.
        plan: the bits.
        allocation: as JSON.
        run: what was measured of the models.
    """
    lines = [
        f"# {analysis.model}, quantized by mixqsam",
        "",
        f"Budget: `{allocation['budget']['text']}`. Recipe: `{run.recipe}`. {_calibrated(analysis, run)}",
        "",
        *_models(run.models),
        *_measured(run.check),
        "",
        f"`model.safetensors` has {run.file_bytes:,} bytes; the bits above, with all scales and float tensors, "
        f"are {allocation['size']:,.0f} (the difference is the file's header and the filling of last bytes).",
        "",
        *_proof(allocation),
        "",
        *_reconstruction(run.reconstruction),
        *_histogram(analysis, plan),
        "",
        *_units(analysis, plan),
        "",
        *_calibration_images(run.calibration),
        "## Time",
        "",
        "| stage | seconds |",
        "|---|---:|",
        *(f"| {stage} | {value:.1f} |" for stage, value in run.seconds.items()),
        "",
        "Stages found in the cache take next to no time.",
        "",
    ]
    return "\n".join(lines)


def _calibrated(analysis: Analysis, run: Run) -> str:
    if run.calibration is None:
        return f"Calibrated on {analysis.images} images."
    return f"Calibrated on {analysis.images} images, a sample with seed {run.calibration.seed}, listed below."


def _measured(check: Check | None) -> list[str]:
    """On what quality was measured."""
    if check is None:
        return []
    of_kind = f" ({check.kind})" if check.kind else ""
    seen = "that the calibration has seen too" if check.seen else "that the calibration has not seen"
    return ["", f"Quality is measured on {check.images} images with {check.prompts} prompts{of_kind}, {seen}."]


def _calibration_images(calibration: Calibration | None) -> list[str]:
    if calibration is None:
        return []
    return ["## Calibration images", "", ", ".join(f"`{name}`" for name in calibration.images), ""]


def _models(models: Mapping[str, Figures]) -> list[str]:
    measured = any(one.mean_iou is not None for one in models.values())
    rows = ["| model | size | BitOps per image |", "|---|---:|---:|"]
    if measured:
        rows = [f"{rows[0]} mean IoU with float masks |", f"{rows[1]}---:|"]
    for name, one in models.items():
        label = f"{name} {one.bits}".strip()
        row = f"| {label} | {one.size / 1e6:.2f} MB | {one.bitops / 1e9:,.1f} G |"
        fidelity = "1" if name == "float" else "–" if one.mean_iou is None else f"{one.mean_iou:.3f}"
        rows.append(f"{row} {fidelity} |" if measured else row)
    return rows


def _proof(allocation: Mapping[str, Any]) -> list[str]:
    objective = allocation["objective"]
    if objective is None:
        return ["All units have the same bits; nothing was optimised."]
    state = "proven optimal" if allocation["gap"] == 0 else f"within {allocation['gap']:.2%} of the optimum"
    used = [
        f"{label} {allocation[key] / limit:.2%}"
        for key, label in (("size", "size"), ("bitops", "BitOps"))
        if (limit := allocation["budget"][key])
    ]
    return [
        f"Allocation: P_Y `{objective['output']}`, utility `{objective['utility']}`, "
        f"synergy `{objective['synergy']}` with λ = {objective['coupling']:g}. {state.capitalize()}: "
        f"objective {allocation['value']:.6g}, bound {allocation['bound']:.6g}, {allocation['seconds']:.2f} s. "
        f"Of the budget it uses {', '.join(used)}."
    ]


def _reconstruction(logs: Sequence[Piece]) -> list[str]:
    if not logs:
        return []
    rows = [
        "## Reconstruction",
        "",
        "Loss is the squared distance to the float model's output, rounded to nearest and as deployed.",
        "",
        "| piece | nearest | deployed | iterations | ended |",
        "|---|---:|---:|---:|---|",
    ]
    rows += [f"| {log.piece} | {log.before:.4g} | {log.after:.4g} | {log.iterations} | {log.ending} |" for log in logs]
    return [*rows, ""]


def _histogram(analysis: Analysis, plan: BitPlan) -> list[str]:
    weights: Counter[int] = Counter()
    for unit in analysis.units:
        weights[plan.bits[unit.name].weight] += unit.parameters
    total = max(1, sum(weights.values()))
    activations = Counter(plan.bits[unit.name].activation for unit in analysis.units)
    rows = ["## Bits", "", "| bits | share of weights | units with such activations |", "|---:|---:|---:|"]
    used = sorted(set(weights) | set(activations))
    return rows + [f"| {bits} | {weights[bits] / total:.1%} | {activations[bits]} |" for bits in used]


def _units(analysis: Analysis, plan: BitPlan) -> list[str]:
    measure, share = unit_shares(analysis, None) or ("nothing measured", np.zeros(len(analysis.units)))
    rank = ranks(share)
    rows = [
        "## Units, in the order of the data",
        "",
        "For a product of attention, W is the right operand (k or v) and A the left one (q or the attention).",
        "",
        f"| unit | W | A | parameters | M multiply-adds | {measure} | rank |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for i, unit in enumerate(analysis.units):
        bits = plan.bits[unit.name]
        rows.append(
            f"| {unit.name} | {bits.weight} | {bits.activation} | {unit.parameters:,} "
            f"| {analysis.costs.multiply_adds(unit) / 1e6:,.1f} | {share[i]:.4f} | {rank[i]} |"
        )
    return rows
