"""Passes whose last digits do not matter: large products are made in bfloat16 where the processor has it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import nn

from mixqsam.numeric.rough import apply_linear, is_rough, multiply_in_bfloat16
from mixqsam.plan import Unit
from mixqsam.sam.hooks import replace_method
from mixqsam.sam.load import Sam


def multiplies_roughly(sam: Sam, *, prompts: int) -> bool:
    """Whether a rough pass of a float model makes some product in bfloat16, with this number of prompts in a batch."""
    costs = sam.costs(prompts_per_image=max(1, prompts))
    large = any(unit.kind == "linear" and is_rough(costs.multiply_adds(unit)) for unit in costs.units)
    return sam.device.type == "cpu" and (large or bool(_large_products(sam)))


@contextmanager
def rough_products(sam: Sam) -> Iterator[None]:
    """While this is open, the encoder's large products of two activations are made in bfloat16, and their gradients.

    An attention is computed in pieces, so whether it is large follows from its unit.
    """
    with ExitStack() as stack:
        for unit in _large_products(sam):
            replace_method(stack, sam.model.get_submodule(unit.name), "multiply", multiply_in_bfloat16)
        yield


@contextmanager
def rough_pass(sam: Sam) -> Iterator[None]:
    """While this is open, a float model makes all large products in bfloat16; for passes without gradients."""
    units = sam.costs().units
    linears = [sam.model.get_submodule(unit.name) for unit in units if unit.kind == "linear"]
    with rough_products(sam), ExitStack() as stack:
        for linear in linears:
            if type(linear) is nn.Linear:
                replace_method(stack, linear, "forward", partial(apply_linear, linear))
        yield


def _large_products(sam: Sam) -> list[Unit]:
    """The encoder's products that are made in bfloat16."""
    if sam.device.type != "cpu":
        return []
    products = (unit for unit in sam.costs().units if unit.kind == "product" and unit.part == "encoder")
    return [unit for unit in products if is_rough(unit.multiply_adds)]
