"""Adaptive granularity (PTQ4SAM, methods §3): a logarithmic quantizer for softmax, with its steps per octave chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixqsam.errors import NumericError
from mixqsam.numeric.quantizers import LogQuantizer
from mixqsam.plan import Unit
from mixqsam.quantization.setting import Activations, Setting

# The paper's, for its 4 and 6 bits. A finer step per octave is no use to few codes, but without one 8 bits would be
# hardly better than 5: neighbouring values would stay 19% apart.
_TAUS = (1, 2, 4)
_FINER = {7: (8,), 8: (8, 16)}
_POWER = 2.4
# s runs from the largest value down by quarter octaves.
_SCALES = [2 ** (-k / 4) for k in range(16)]
# What is kept of each attention: enough rows to tell candidates apart, few enough to fit in memory.
_IMAGES, _GROUPS, _ROWS = 8, 4, 32


class _Attention:
    """Some rows of an attention A and the values V that they mix, image by image."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        attention, values = (one.reshape(-1, *one.shape[-2:]) for one in inputs)
        groups = torch.linspace(0, len(attention) - 1, min(_GROUPS, len(attention))).long()
        rows = torch.linspace(0, attention.shape[1] - 1, min(_ROWS, attention.shape[1])).long()
        self.seen.append((attention[groups][:, rows].clone(), values[groups].clone()))


@dataclass(frozen=True)
class AdaptiveGranularity:
    """Puts the attention's operand of every `softmax·v` on a logarithmic grid."""

    def extra_bytes(self, unit: Unit) -> int:
        """None: a scale and τ take what a scale and a zero point take."""
        del unit
        return 0

    def choose(self, setting: Setting, activations: Activations) -> Activations:
        """For each attention the τ and s with the least |ÂV − AV|^2.4.

        Raises:
            NumericError: an attention is all zero, so that no scale fits it; the message names the unit.
        """
        units = setting.quantized(".av")
        keys = {
            unit.name: setting.key("granularity", unit.name, _bits(setting, unit), taus(_bits(setting, unit)))
            for unit in units
        }
        missing = [unit for unit in units if setting.cache.get("granularity", keys[unit.name]) is None]
        if missing:
            watchers = {unit.name: _Attention() for unit in missing}
            setting.watch(watchers, label="Attention, for its granularity", samples=_IMAGES)
            for unit in setting.progress.track(missing, label="Granularity", total=len(missing)):
                tau, largest = _best(watchers[unit.name].seen, bits=_bits(setting, unit), name=unit.name)
                setting.cache.put("granularity", keys[unit.name], {"tau": tau, "scale": largest})
        chosen = dict(activations)
        for unit in units:
            found = setting.cache.get("granularity", keys[unit.name]) or {}
            scale = torch.tensor(found["scale"])
            chosen[unit.name, "activation"] = LogQuantizer(_bits(setting, unit), scale=scale, tau=int(found["tau"]))
        return chosen


def taus(bits: int) -> tuple[int, ...]:
    """The steps per octave to choose from: the paper's 1, 2 and 4, and finer ones for 7 and 8 bits."""
    return _TAUS + _FINER.get(bits, ())


def _bits(setting: Setting, unit: Unit) -> int:
    return setting.plan.bits[unit.name].activation


def _best(seen: Sequence[tuple[Tensor, Tensor]], *, bits: int, name: str) -> tuple[int, float]:
    largest = max(float(attention.max()) for attention, _ in seen)
    if not largest > 0:
        raise NumericError(f"{name}: its attention is all zero; a logarithmic quantizer does not fit it.")
    exact = [attention @ values for attention, values in seen]
    least, best = float("inf"), (1, largest)
    for tau in taus(bits):
        for factor in _SCALES:
            quantizer = LogQuantizer(bits, scale=torch.tensor(largest * factor), tau=tau)
            error = sum(
                float((quantizer(attention) @ values - wanted).abs().pow(_POWER).mean())
                for (attention, values), wanted in zip(seen, exact, strict=True)
            )
            if error < least:
                least, best = error, (tau, largest * factor)
    return best
