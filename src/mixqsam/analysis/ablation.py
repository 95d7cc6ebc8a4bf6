"""Importance and synergy by ablation: the output of a unit, or of two neighbours, set to zero.

See docs/method.md, “Layer importance” and “Cross-layer synergy”.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.analysis.variants import Prefix, Variant, track_variants
from mixqsam.plan import Role, Unit, Vector
from mixqsam.progress import Progress
from mixqsam.sam.load import Sam

# Zeroing the first has exactly the effect of zeroing the second: without q or k all logits of the product are 0, and
# without v its sum is 0. One run is enough for both, and by the paper's definition they are equally important.
_SAME_EFFECT: dict[Role, Role] = {
    "query-key-value": "mixing",
    "value": "mixing",
    "query": "scores",
    "key": "scores",
}
# When the first is zeroed, the second has no effect.
_HIDES: dict[Role, tuple[Role, ...]] = {"mixing": ("scores",), "projection": ("mixing", "scores")}


class Effects:
    """Finds the units whose zeroing has the same effect as zeroing others."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._equal = {unit.name: unit.name for unit in units}
        self._hidden: dict[str, set[str]] = {unit.name: set() for unit in units}
        by_role = {(unit.attention, unit.role): unit.name for unit in units if unit.attention}
        mlp_in = ""
        for unit in units:
            if unit.role == "mlp-in":
                mlp_in = unit.name
            elif unit.role == "mlp-out":
                # An MLP's two linears run one after the other; when the second is zeroed, the first has no effect.
                self._hidden[unit.name] = {mlp_in}
            elif unit.attention:
                # An attention may lack a role; then no other unit is known to have the same effect.
                equal = _SAME_EFFECT.get(unit.role, unit.role)
                self._equal[unit.name] = by_role.get((unit.attention, equal), unit.name)
                hidden = ((unit.attention, role) for role in _HIDES.get(unit.role, ()))
                self._hidden[unit.name] = {by_role[key] for key in hidden if key in by_role}

    def reduce(self, names: Sequence[str]) -> frozenset[str]:
        """The fewest units whose zeroing has the same effect as zeroing all of `names`."""
        equal = {self._equal[name] for name in names}
        return frozenset(equal).difference(*(self._hidden[name] for name in equal))


def zero(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Replace the output of an ablated unit by zero."""
    del module, inputs
    return torch.zeros_like(output)


def ablate(
    sam: Sam,
    prefix: Prefix,
    *,
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    progress: Progress,
    label: str = "Importance",
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Measure the KL divergences of one image's output without single units, and without pairs of units.

    Args:
        sam: the float model.
        prefix: the unchanged model's pass over the image.
        names: units to ablate one at a time.
        pairs: units to ablate together.
        progress: receives the number of finished variants.
        label: label of the progress.

    Returns:
        P_Y definition → a KL for each name, and P_Y definition → a KL for each pair.
    """
    effects = Effects(sam.costs().units)
    requested = [effects.reduce([name]) for name in names] + [effects.reduce(pair) for pair in pairs]
    distinct = sorted(set(requested), key=sorted)
    variants = [Variant(dict.fromkeys(units, zero)) for units in distinct]
    values_by_effect: dict[str, dict[frozenset[str], float]] = {output: {} for output in OUTPUTS}
    for indices, logits in track_variants(sam, prefix, variants, progress=progress, label=label):
        for output, divergence in OUTPUTS.items():
            values = divergence(prefix.logits, logits).tolist()
            values_by_effect[output].update(zip((distinct[i] for i in indices), values, strict=True))
    divergences = {output: [per_effect[e] for e in requested] for output, per_effect in values_by_effect.items()}
    count = len(names)
    return (
        {output: values[:count] for output, values in divergences.items()},
        {output: values[count:] for output, values in divergences.items()},
    )


def importance(divergences: Vector) -> Vector:
    """Ω: each image's KLs divided by their sum, averaged over images. [images, units] → [units], sums to 1."""
    totals = divergences.sum(axis=1, keepdims=True)
    shares = np.divide(divergences, totals, out=np.full_like(divergences, 1 / divergences.shape[1]), where=totals > 0)
    omega: Vector = shares.mean(axis=0)
    return omega


def proximity(divergences: Vector, *, epsilon: float = 1e-2) -> Vector:
    """The paper's Ŝ of adjacent units: log(1 + mean_t 1/(|Ĩ_l − Ĩ_m| + ε)).

    Importances are normalised first, so that ε has the same meaning for every model.

    Args:
        divergences: [images, units].
        epsilon: keeps equal importances finite.

    Returns:
        [units − 1].
    """
    totals = np.maximum(divergences.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    gaps = np.abs(np.diff(divergences / totals, axis=1))
    strength: Vector = np.log1p((1 / (gaps + epsilon)).mean(axis=0))
    return strength


def interaction(divergences: Vector, joint: Vector) -> Vector:
    """Ŝ of adjacent units from the definition S_lm = I(l,m;Y) − I(l;Y) − I(m;Y), by ablating both together.

    S is positive where two units have an effect together that neither has alone. It is negative where either makes the
    other redundant. Both are dependence, so Ŝ = log(1 + |mean_t S̃^t|). S̃ is S as a share of the image's total
    importance, times the number of units: 1 is an average unit's importance.

    Args:
        divergences: [images, units].
        joint: [images, units − 1], KL with units i and i + 1 ablated.

    Returns:
        [units − 1].
    """
    count = divergences.shape[1]
    totals = np.maximum(divergences.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    synergy = (joint - divergences[:, :-1] - divergences[:, 1:]) / totals * count
    strength: Vector = np.log1p(np.abs(synergy.mean(axis=0)))
    return strength
