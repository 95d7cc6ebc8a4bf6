"""Slow, obvious references."""

from itertools import product
from pathlib import Path

import numpy as np
import torch

from mixqsam.allocation.program import Program
from mixqsam.calibrate import Ranges, WeightGrids
from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.plan import FLOAT, BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.nearest import round_to_nearest
from mixqsam.quantization.setting import Setting, observed
from mixqsam.sam.forward import decode, encode, make_frame, prompt_tensors, visible
from mixqsam.sam.load import Sam


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
        if program.feasible(np.array(choice))
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
