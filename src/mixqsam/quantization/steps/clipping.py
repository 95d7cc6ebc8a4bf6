"""Perceptual-consistency clipping (SAQ-SAM): clip so that attention keeps looking where it looked.

See docs/method.md, “Perceptual-consistency clipping”.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.attend import attention_weights
from mixqsam.numeric.half import Unquantized
from mixqsam.numeric.quantizers import ActivationQuantizer, Quantizer
from mixqsam.plan import HALF_BITS, Operand, Role, Unit
from mixqsam.quantization.setting import Activations, Setting

# Raised when what is kept of an attention means something else.
_VERSION = 2
STEPS = tuple(np.linspace(0.85, 0.99999, 29).tolist())
_FOCUS = 0.5
# Bytes of tokens that are kept of each attention, and values of a tensor that its quantiles are read from.
_BYTES, _VALUES = 32 << 20, 1 << 18
_ROLES: tuple[Role, ...] = ("query", "key", "scores")


@dataclass
class _Tokens:
    """Inputs of the projections to q and to k, image by image, as long as they fit."""

    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    bytes: int = 0

    def add(self, kind: list[Tensor], tokens: Tensor) -> None:
        if self.bytes < _BYTES:
            kind.append(tokens.clone())
            self.bytes += tokens.numel() * tokens.element_size()


@dataclass(frozen=True)
class PerceptualClipping:
    """Chooses one symmetric percentile for q, k and the inputs of their projections, of each decoder attention."""

    def extra_bytes(self, unit: Unit) -> int:
        """None: the grids stay affine."""
        del unit
        return 0

    def choose(self, setting: Setting, activations: Activations) -> Activations:
        """The percentile whose attention foci overlap most with the float model's.

        Raises:
            MixqsamError: the model has no attention with projections of its own for q and k.
        """
        setting.need("query", step="Perceptual-consistency clipping")
        attentions = _attentions(setting)
        depends = {
            name: (_VERSION, [str(setting.plan.bits[unit]) for unit in units.values()])
            for name, units in attentions.items()
        }
        chosen = dict(activations)
        for name, found in setting.remembered("clipping", depends, partial(_search, setting)).items():
            for (unit, operand), bits in _clipped(attentions[name], setting).items():
                low, high = found[f"{unit}/{operand}"]
                chosen[unit, operand] = _quantizer(low, high, bits)
        return chosen


def _attentions(setting: Setting) -> dict[str, dict[Role, str]]:
    """Attention of the decoder whose q, k and scores are all quantized → its units by role."""
    found: dict[str, dict[Role, str]] = {}
    for unit in setting.quantized(*_ROLES):
        if unit.part == "decoder" and unit.attention:
            found.setdefault(unit.attention, {})[unit.role] = unit.name
    return {name: {role: units[role] for role in _ROLES} for name, units in found.items() if len(units) == len(_ROLES)}


def _search(setting: Setting, names: list[str]) -> Iterator[tuple[str, dict[str, tuple[float, float]]]]:
    attentions = _attentions(setting)
    tokens = {name: _Tokens() for name in names}
    watchers = {}
    for name, seen in tokens.items():
        watchers[attentions[name]["query"]] = lambda inputs, _, seen=seen: seen.add(seen.queries, inputs[0])
        watchers[attentions[name]["key"]] = lambda inputs, _, seen=seen: seen.add(seen.keys, inputs[0])
    setting.watch(watchers, label="Decoder's attention, for clipping")
    for name in setting.progress.track(names, label="Clipping", total=len(names)):
        module = setting.sam.model.get_submodule(name)
        yield name, _best(module, tokens[name], _clipped(attentions[name], setting))


def _clipped(units: dict[Role, str], setting: Setting) -> dict[tuple[str, Operand], int]:
    """The clipped activations of an attention and their bits: inputs of both projections, q, k."""
    query, key, scores = units.values()
    clipped: tuple[tuple[str, Operand], ...] = ((query, "input"), (key, "input"), (scores, "left"), (scores, "right"))
    return {(unit, operand): setting.plan.bits[unit].of(operand) for unit, operand in clipped}


@torch.no_grad()
def _best(module: Any, tokens: _Tokens, clipped: dict[tuple[str, Operand], int]) -> dict[str, tuple[float, float]]:
    """The ranges of the best percentile; the attention has its projections as `q_proj` and `k_proj`."""
    to_query, to_key = module.q_proj, module.k_proj
    pairs = list(zip(tokens.queries, tokens.keys, strict=False))
    exact = [(to_query(q), to_key(k)) for q, k in pairs]
    foci = [_focus(module, q, k) for q, k in exact]
    columns = [[q for q, _ in pairs], [k for _, k in pairs], [q for q, _ in exact], [k for _, k in exact]]
    ordered = [_sorted_values(column) for column in columns]
    most, best = -1.0, {}
    for step in STEPS:
        ranges = [_quantiles(values, step) for values in ordered]
        quantizers = [_quantizer(low, high, bits) for (low, high), bits in zip(ranges, clipped.values(), strict=True)]
        overlaps = []
        for (queries, keys), focus in zip(pairs, foci, strict=True):
            q = quantizers[2](to_query(quantizers[0](queries)))
            k = quantizers[3](to_key(quantizers[1](keys)))
            overlaps.append(_overlap(_focus(module, q, k), focus))
        overlap = float(np.mean(overlaps))
        # Of equals the wider range: it clips less.
        if overlap >= most:
            most, best = overlap, {f"{u}/{o}": r for (u, o), r in zip(clipped, ranges, strict=True)}
    return best


def _quantizer(low: float, high: float, bits: int) -> ActivationQuantizer:
    if bits == HALF_BITS:
        return Unquantized()
    return Quantizer(AffineGrid.from_range(torch.tensor(low), torch.tensor(high), bits=bits))


def _focus(module: nn.Module, q: Tensor, k: Tensor) -> Tensor:
    """M = 1{A > 0.5·rowmax(A)}."""
    attention = attention_weights(module, q, k)
    return attention > _FOCUS * attention.amax(dim=-1, keepdim=True)


def _overlap(first: Tensor, second: Tensor) -> float:
    """Mean IoU of rows of foci."""
    both, either = (first & second).sum(-1), (first | second).sum(-1)
    return float((both / either.clamp(min=1)).mean())


def _sorted_values(tensors: list[Tensor]) -> Tensor:
    flat = torch.cat([one.reshape(-1) for one in tensors])
    # An odd step does not fall into step with channel counts, which are even.
    return flat[:: flat.numel() // _VALUES | 1].float().cpu().sort().values


def _quantiles(ordered: Tensor, step: float) -> tuple[float, float]:
    last = len(ordered) - 1
    return float(ordered[round((1 - step) * last)]), float(ordered[round(step * last)])
