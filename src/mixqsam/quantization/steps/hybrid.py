"""Hybrid log-uniform quantization (AHCPTQ) of what comes out of an MLP's activation function.

See docs/method.md, “Hybrid log-uniform grids”.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mixqsam.errors import NumericError
from mixqsam.numeric.quantizers import HybridQuantizer
from mixqsam.plan import Unit
from mixqsam.quantization.setting import Activations, Setting

RATIOS = (0.1, 0.3, 0.5)
SHARES = (1 / 8, 1 / 4, 1 / 2)
_IMAGES, _TOKENS = 8, 64


class _Inputs:
    """Some tokens of a linear's input, and its exact extremes."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self.tokens: list[Tensor] = []

    def __call__(self, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        low, high = (float(v) for v in inputs[0].aminmax())
        self.low, self.high = min(self.low, low), max(self.high, high)
        flat = inputs[0].reshape(-1, inputs[0].shape[-1])
        self.tokens.append(flat[:: max(1, len(flat) // _TOKENS)].clone())


@dataclass(frozen=True)
class HybridLogUniform:
    """Puts the input of every MLP's second linear on a hybrid grid."""

    def extra_bytes(self, unit: Unit) -> int:
        """Low, knee, span and the number of logarithmic levels instead of a scale and a zero point."""
        return 13 - 5 if unit.role == "mlp-out" else 0

    def choose(self, setting: Setting, activations: Activations) -> Activations:
        """For each such linear the knee, the share of logarithmic levels and the range with the least output error.

        Raises:
            NumericError: an input is constant, so that it has no range; the message names the unit.
            MixqsamError: the model has no MLP.
        """
        setting.need("mlp-out", step="Hybrid log-uniform quantization")
        bits = setting.activation_bits("mlp-out")

        def search(names: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
            watchers = {name: _Inputs() for name in names}
            setting.watch(watchers, label="Inputs of MLPs' second linears", samples=_IMAGES)
            for name in setting.progress.track(names, label="Hybrid grids", total=len(names)):
                yield name, _best(watchers[name], name, setting, bits=bits[name])

        depends = {name: (width, setting.ranges.observer) for name, width in bits.items()}
        chosen = dict(activations)
        for name, found in setting.remembered("hybrid", depends, search).items():
            chosen[name, "input"] = _quantizer(bits[name], found)
        return chosen


def _quantizer(bits: int, values: dict[str, float]) -> HybridQuantizer:
    low, knee, span = (torch.tensor(values[name]) for name in ("low", "knee", "span"))
    return HybridQuantizer(bits, low=low, knee=knee, span=span, log_levels=int(values["log_levels"]))


def _best(seen: _Inputs, name: str, setting: Setting, *, bits: int) -> dict[str, float]:
    tokens, weight = torch.cat(seen.tokens), setting.weights.weight(name)
    least, best = float("inf"), None
    for candidate in _candidates(seen, setting.ranges.values[name]["input"][bits], bits=bits):
        error = float(functional.linear(_quantizer(bits, candidate)(tokens) - tokens, weight).square().mean())
        if error < least:
            least, best = error, candidate
    if best is None:
        raise NumericError(f"{name}: its input is constant; a hybrid quantizer does not fit it.")
    return best


def _candidates(seen: _Inputs, observed: tuple[float, float], *, bits: int) -> Iterator[dict[str, float]]:
    """Grids over the whole range, and over the observer's clipped one."""
    for low, high in dict.fromkeys([(seen.low, seen.high), observed]):
        for ratio in RATIOS:
            for share in SHARES:
                # Two levels at least: zero, and the knee where both parts meet.
                logs = max(2, round(share * 2**bits))
                if high > low:
                    yield {"low": low, "knee": ratio * (high - low), "span": high - low, "log_levels": logs}
