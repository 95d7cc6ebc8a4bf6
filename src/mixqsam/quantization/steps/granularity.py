"""Adaptive granularity (PTQ4SAM): a logarithmic quantizer for softmax, with its steps per octave chosen.

See docs/method.md, “Adaptive granularity”.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixqsam.errors import NumericError
from mixqsam.numeric.quantizers import LogQuantizer
from mixqsam.plan import Unit
from mixqsam.quantization.setting import Activations, Setting

# The paper's, for its 4 and 6 bits. A finer step per octave does not help few codes. Without one, 8 bits would be
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
            MixqsamError: the model has no attention.
        """
        setting.need("mixing", step="Adaptive granularity")
        bits = setting.activation_bits("mixing")

        def search(names: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
            watchers = {name: _Attention() for name in names}
            setting.watch(watchers, label="Attention, for its granularity", samples=_IMAGES)
            for name in setting.progress.track(names, label="Granularity", total=len(names)):
                tau, scale = _best(watchers[name].seen, bits=bits[name], name=name)
                yield name, {"tau": tau, "scale": scale}

        depends = {name: (width, taus(width)) for name, width in bits.items()}
        chosen = dict(activations)
        for name, found in setting.remembered("granularity", depends, search).items():
            scale = torch.tensor(found["scale"])
            chosen[name, "left"] = LogQuantizer(bits[name], scale=scale, tau=int(found["tau"]))
        return chosen


def taus(bits: int) -> tuple[int, ...]:
    """The steps per octave to choose from: the paper's 1, 2 and 4, and finer ones for 7 and 8 bits."""
    return _TAUS + _FINER.get(bits, ())


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
