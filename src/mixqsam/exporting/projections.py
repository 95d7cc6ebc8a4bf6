"""Projections onto grids without a single step, as float operations."""

import numpy as np

from mixqsam.exporting.arrays import array
from mixqsam.exporting.graph import Graph
from mixqsam.numeric.quantizers import AffineQuantizer, HybridQuantizer, LogQuantizer


def logarithmic(graph: Graph, value: str, quantizer: LogQuantizer) -> str:
    """The values of a logarithmic grid; see `LogQuantizer.forward`."""
    last, tau, scale = float(2**quantizer.bits - 1), float(quantizer.tau), float(quantizer.scale)
    small = graph.add("Max", value, graph.constant(1e-30))
    octaves = graph.add("Log", graph.add("Div", small, graph.constant(scale)))
    steps = graph.add("Round", graph.add("Mul", octaves, graph.constant(-tau / np.log(2))))
    codes = graph.add("Clip", steps, graph.constant(0.0), graph.constant(last))
    powers = graph.add(
        "Mul", graph.add("Exp", graph.add("Mul", codes, graph.constant(-np.log(2) / tau))), graph.constant(scale)
    )
    return graph.add("Where", graph.add("Equal", codes, graph.constant(last)), graph.constant(0.0), powers)


def hybrid(graph: Graph, value: str, quantizer: HybridQuantizer) -> str:
    """The values of a grid that is logarithmic below and uniform above; see `HybridQuantizer.forward`."""
    low, knee, span = (float(v) for v in (quantizer.low, quantizer.knee, quantizer.span))
    logs = float(quantizer.log_levels)
    uniform = 2**quantizer.bits - logs
    step = (span - knee) / uniform
    zero, knees = graph.constant(0.0), graph.constant(knee)
    shifted = graph.add("Clip", graph.add("Sub", value, graph.constant(low)), zero, graph.constant(span))
    octaves = graph.add("Log", graph.add("Div", graph.add("Max", shifted, graph.constant(1e-30)), knees))
    codes = graph.add("Round", graph.add("Mul", octaves, graph.constant(-1 / np.log(2))))
    codes = graph.add("Clip", codes, zero, graph.constant(logs - 1))
    powers = graph.add("Mul", graph.add("Exp", graph.add("Mul", codes, graph.constant(-np.log(2)))), knees)
    below = graph.add("Where", graph.add("Equal", codes, graph.constant(logs - 1)), zero, powers)
    steps = graph.add("Round", graph.add("Div", graph.add("Sub", shifted, knees), graph.constant(step)))
    steps = graph.add("Clip", steps, zero, graph.constant(uniform))
    above = graph.add("Add", graph.add("Mul", steps, graph.constant(step)), knees)
    joined = graph.add("Where", graph.add("LessOrEqual", shifted, knees), below, above)
    return graph.add("Add", joined, graph.constant(low))


def affine_by_channel(graph: Graph, value: str, quantizer: AffineQuantizer) -> str:
    """The values of an affine grid for each channel; see `AffineGrid.project`."""
    grid = quantizer.grid
    scale, zero = array(grid.scale), array(grid.zero)
    steps = graph.add("Round", graph.add("Div", value, graph.constant(scale)))
    low, high = graph.constant(-zero), graph.constant(2**quantizer.bits - 1 - zero)
    return graph.add("Mul", graph.add("Min", graph.add("Max", steps, low), high), graph.constant(scale))
