"""Passes whose last digits do not matter: large products are made in bfloat16 where the processor has it."""

import operator
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import nn

from mixqsam.numeric.modules import Product
from mixqsam.numeric.rough import apply_linear, is_rough, multiply_pieces
from mixqsam.plan import Unit
from mixqsam.sam.load import Sam


def name_rounding(sam: Sam, *, prompts: int) -> list[str]:
    """Name how a rough pass of a float model rounds its large products, for keys: caches may move between processors.

    Args:
        sam: the model.
        prompts: maximum number of prompts in a batch.

    Returns:
        The name; empty where nothing is rounded.
    """
    costs = sam.costs(prompts_per_image=max(1, prompts))
    large = any(unit.kind == "linear" and is_rough(costs.multiply_adds(unit)) for unit in costs.units)
    is_rounded = sam.device.type == "cpu" and (large or bool(_large_products(sam)))
    return ["bfloat16"] if is_rounded else []


@contextmanager
def rough_products(sam: Sam) -> Iterator[None]:
    """While this is open, the encoder's large products of two activations are made in bfloat16, and their gradients.

    An attention is computed in pieces, so whether it is large follows from its unit.
    """
    products = [sam.model.get_submodule(unit.name) for unit in _large_products(sam)]
    try:
        for product in products:
            if isinstance(product, Product):
                product.multiply = multiply_pieces
        yield
    finally:
        for product in products:
            product.multiply = operator.matmul


@contextmanager
def rough_pass(sam: Sam) -> Iterator[None]:
    """While this is open, a float model makes all large products in bfloat16; for passes without gradients."""
    units = sam.costs().units
    linears = [sam.model.get_submodule(unit.name) for unit in units if unit.kind == "linear"]
    with rough_products(sam), ExitStack() as stack:
        for linear in linears:
            if type(linear) is nn.Linear:
                # An attribute of the instance comes before the method of its class, and is all that has to go again.
                linear.__dict__["forward"] = partial(apply_linear, linear)
                stack.callback(linear.__dict__.pop, "forward")
        yield


def _large_products(sam: Sam) -> list[Unit]:
    """The encoder's products that are made in bfloat16."""
    if sam.device.type != "cpu":
        return []
    products = (unit for unit in sam.costs().units if unit.kind == "product" and unit.part == "encoder")
    return [unit for unit in products if is_rough(unit.multiply_adds)]
