"""Write the bits of every unit as CSV."""

import csv
import io

import numpy as np

from mixqsam.measurements import Analysis
from mixqsam.plan import BitPlan
from mixqsam.reporting.network import rank_units
from mixqsam.reporting.shares import unit_shares

NAME = "units.csv"


def write_units(analysis: Analysis, plan: BitPlan) -> str:
    """Write one line for each unit, in the order of execution.

    In a product of attention, the weight bits are those of the right operand (k or v), and the activation bits those of
    the left one (q or the attention).

    Args:
        analysis: units and their measurements.
        plan: the bits.
    """
    measure, share = unit_shares(analysis, None) or ("nothing measured", np.zeros(len(analysis.units)))
    rank = rank_units(share)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["unit", "weight bits", "activation bits", "parameters", "multiply-adds", measure, "rank"])
    for i, unit in enumerate(analysis.units):
        bits, work = plan.bits[unit.name], analysis.costs.multiply_adds(unit)
        writer.writerow([unit.name, bits.weight, bits.activation, unit.parameters, work, f"{share[i]:.6g}", rank[i]])
    return stream.getvalue()
