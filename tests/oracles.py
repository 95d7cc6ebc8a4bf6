"""Slow, obvious references."""

from itertools import product
from pathlib import Path

import numpy as np
import torch

from mixqsam.allocation.program import Program
from mixqsam.calibrate import Ranges
from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.plan import FLOAT, BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.nearest import round_to_nearest
from mixqsam.quantization.setting import Setting, observed
from mixqsam.sam.forward import decode, encode, make_frame, prompt_tensors, visible
from mixqsam.sam.load import Sam
from mixqsam.weight_grids import WeightGrids


def pack_slowly(codes: list[int], bits: int) -> bytes:
    """Each code's bits, least significant first, one after the other."""
    stream = [(code >> i) & 1 for code in codes for i in range(bits)]
    stream += [0] * (-len(stream) % 8)
    return bytes(sum(bit << i for i, bit in enumerate(stream[at : at + 8])) for at in range(0, len(stream), 8))


def best_choice(program: Program) -> float | None:
    """The best objective among all choices, by trying each."""
    values = [
        program.value(np.array(choice))
        for choice in product(*(range(len(s)) for s in program.states))
        if program.is_feasible(np.array(choice))
    ]
    return max(values, default=None)


def nearest(sam: Sam, plan: BitPlan, ranges: Ranges) -> Sam:
    """A model rounded to nearest on its observer's grids."""
    weights = WeightGrids(sam, observer=ranges.observer)
    setting = Setting(sam, sam.costs().units, plan, (), ranges, weights, Cache(Path("unused")), Silent())
    return round_to_nearest(setting, observed(setting))


def logits_of(sam: Sam, sample: Sample, *, zeroed: tuple[str, ...] = ()) -> torch.Tensor:
    """The visible logits of a whole plain pass, with the outputs of some modules set to zero."""
    handles = [
        sam.model.get_submodule(name).register_forward_hook(lambda m, i, o: torch.zeros_like(o)) for name in zeroed
    ]
    frame = make_frame(sam, sample.open())
    logits, _ = decode(sam, encode(sam, frame), prompt_tensors(sam, sample.prompts, frame))
    for handle in handles:
        handle.remove()
    return visible(logits, frame)


def mixture(sam: Sam, *, seed: int, floats: bool = True) -> BitPlan:
    """Random bits, and some units in float."""
    rng = np.random.default_rng(seed)
    return BitPlan(
        {
            unit.name: FLOAT if floats and rng.random() < 0.1 else UnitBits(*(int(b) for b in rng.integers(2, 9, 2)))
            for unit in sam.costs().units
        }
    )


def half_mixture(sam: Sam, *, seed: int) -> BitPlan:
    """Random bits of which many are 16, and some units in float."""
    rng = np.random.default_rng(seed)
    choices = [UnitBits(*pair) for pair in ((16, 16), (8, 16), (4, 16), (16, 4), (16, 8), (4, 4), (8, 8))] + [FLOAT]
    return BitPlan({unit.name: choices[rng.integers(len(choices))] for unit in sam.costs().units})


def patches_slowly(layer: torch.nn.Conv2d, values: torch.Tensor) -> torch.Tensor:
    """What a convolution's weights meet, output value by output value: [groups, images·height·width, d]."""
    values = values.double()
    shape = layer(values.float()).shape
    down, across = (0, 0) if isinstance(layer.padding, str) else layer.padding
    if layer.padding == "same":
        down, across = (d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    width = values.shape[1] // layer.groups
    found = torch.zeros(layer.groups, shape[0], shape[2], shape[3], width, *layer.kernel_size, dtype=torch.float64)
    for group, n, i, j, c, k, m in product(*(range(size) for size in found.shape)):
        row = i * layer.stride[0] + k * layer.dilation[0] - down
        column = j * layer.stride[1] + m * layer.dilation[1] - across
        if 0 <= row < values.shape[2] and 0 <= column < values.shape[3]:
            found[group, n, i, j, c, k, m] = values[n, group * width + c, row, column]
    return found.reshape(layer.groups, shape[0] * shape[2] * shape[3], -1)


def gptq_slowly(weight: np.ndarray, hessian: np.ndarray, scale: float, zero: float, last: int) -> list[int]:
    """One row rounded as the method defines it: after each weight the open ones move to their least-squares optimum."""
    open_, codes = weight.astype(np.float64).copy(), []
    for i in range(len(open_)):
        code = min(max(round(open_[i] / scale) + zero, 0), last)
        error = open_[i] - (code - zero) * scale
        inverse = np.linalg.inv(hessian[i:, i:])
        open_[i:] -= error / inverse[0, 0] * inverse[0]
        codes.append(int(code))
    return codes
