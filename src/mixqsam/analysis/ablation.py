"""Importance and synergy by ablation: the output of a unit, or of two neighbours, set to zero.

See docs/method.md, “Layer importance” and “Cross-layer synergy”.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.analysis.variants import Prefix, Variant, tracked
from mixqsam.plan import Role, Unit, Vector
from mixqsam.progress import Progress
from mixqsam.sam.load import Sam

# Zeroing the first has the effect of zeroing the second, exactly: without q or k all logits of the product are 0,
# without v its sum is 0. So they need one run, and by the paper's definition are equally important.
_SAME_EFFECT: dict[Role, Role] = {
    "query-key-value": "mixing",
    "value": "mixing",
    "query": "scores",
    "key": "scores",
}
# With the first zeroed, the second no longer matters.
_HIDES: dict[Role, tuple[Role, ...]] = {"mixing": ("scores",), "projection": ("mixing", "scores")}


class Effects:
    """Which units' zeroing has the same effect as zeroing others."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._same = {unit.name: unit.name for unit in units}
        self._hidden: dict[str, set[str]] = {unit.name: set() for unit in units}
        by_role = {(unit.attention, unit.role): unit.name for unit in units if unit.attention}
        wide = ""
        for unit in units:
            if unit.role == "mlp-in":
                wide = unit.name
            elif unit.role == "mlp-out":
                # An MLP's two linears run one after the other; with the second zeroed the first no longer matters.
                self._hidden[unit.name] = {wide}
            elif unit.attention:
                # An attention need not have all roles: where one is missing, nothing is known to be the same.
                same = _SAME_EFFECT.get(unit.role, unit.role)
                self._same[unit.name] = by_role.get((unit.attention, same), unit.name)
                hidden = ((unit.attention, role) for role in _HIDES.get(unit.role, ()))
                self._hidden[unit.name] = {by_role[key] for key in hidden if key in by_role}

    def of(self, names: Sequence[str]) -> frozenset[str]:
        """The units whose zeroing has the same effect as zeroing all of `names`, as few as possible."""
        same = {self._same[name] for name in names}
        return frozenset(same).difference(*(self._hidden[name] for name in same))


def zero(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The change of an ablated unit: its output is zero."""
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
    """KL divergences between one image's output and those without single units, and without pairs.

    Args:
        sam: the float model.
        prefix: the plain pass over the image.
        names: units to ablate one at a time.
        pairs: units to ablate together.
        progress: is told about variants.
        label: what it calls them.

    Returns:
        P_Y definition → a KL for each name, and P_Y definition → a KL for each pair.
    """
    effects = Effects(sam.costs().units)
    wanted = [effects.of([name]) for name in names] + [effects.of(pair) for pair in pairs]
    distinct = sorted(set(wanted), key=sorted)
    variants = [Variant(dict.fromkeys(units, zero)) for units in distinct]
    found: dict[str, dict[frozenset[str], float]] = {output: {} for output in OUTPUTS}
    for indices, logits in tracked(sam, prefix, variants, progress=progress, label=label):
        for output, divergence in OUTPUTS.items():
            values = divergence(prefix.logits, logits).tolist()
            found[output].update(zip((distinct[i] for i in indices), values, strict=True))
    everything = {output: [per_effect[e] for e in wanted] for output, per_effect in found.items()}
    count = len(names)
    return (
        {output: values[:count] for output, values in everything.items()},
        {output: values[count:] for output, values in everything.items()},
    )


def importance(divergences: Vector) -> Vector:
    """Ω: each image's KLs divided by their sum, then averaged over images. [images, units] → [units], sums to 1."""
    totals = divergences.sum(axis=1, keepdims=True)
    shares = np.divide(divergences, totals, out=np.full_like(divergences, 1 / divergences.shape[1]), where=totals > 0)
    omega: Vector = shares.mean(axis=0)
    return omega


def proximity(divergences: Vector, *, epsilon: float = 1e-2) -> Vector:
    """The paper's Ŝ of adjacent units: log(1 + mean_t 1/(|Ĩ_l − Ĩ_m| + ε)).

    The differences are those of the normalised importances, so that ε means the same for every model.

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

    S is positive where two units do together what neither does alone, and negative where either makes the other
    redundant. Both are dependence, so Ŝ = log(1 + |mean_t S̃^t|), with S̃ in shares of the image's total importance
    (times the number of units, so that 1 is an average unit's importance).

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
