"""Measure the time to a proven optimum for SAM-H's 240 units, with tied and free bits.

    python -m benchmarks.solver --output docs/data/solver.json

Units, parameters and multiply-adds are SAM-H's. Importance, synergy and sensitivity are random (log-normal), without a
helpful structure. About 6 minutes on 2 cores.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from transformers import SamConfig

from benchmarks.harness import machine
from benchmarks.importance_cost import SIZES
from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import allocate
from mixqsam.allocation.program import UTILITIES, Objective
from mixqsam.files import write_json
from mixqsam.plan import CANDIDATE_BITS, Analysis
from mixqsam.sam.units import count_costs


def random_analysis(seed: int) -> Analysis:
    """SAM-H's costs with random measurements."""
    costs = count_costs(SamConfig(vision_config=SIZES["h"]))
    rng = np.random.default_rng(seed)
    count = len(costs.units)
    omega = rng.lognormal(0, 2, count)
    omega /= omega.sum()
    noise = 4.0 ** -np.array(CANDIDATE_BITS)
    operands = [
        omega[:, None] * rng.lognormal(0, 1, (count, 1)) * noise * rng.lognormal(0, 0.2, (count, len(noise)))
        for _ in range(2)
    ]
    sensitivity = np.stack(operands, axis=1)
    synergy = {
        "proximity/bernoulli": rng.uniform(5, 9, count - 1),
        "interaction/bernoulli": rng.lognormal(0, 1, count - 1),
    }
    return Analysis("SAM-H", 1, costs, {"bernoulli": omega}, synergy, {"bernoulli": sensitivity}, CANDIDATE_BITS)


def measure(seeds: int) -> list[dict[str, Any]]:
    """Solve all combinations."""
    rows = []
    for seed, tied, utility, (synergy, coupling), budget in product(
        range(seeds),
        (True, False),
        UTILITIES,
        (("proximity", 0.0), ("proximity", 0.1), ("proximity", 1.0), ("interaction", 0.1), ("interaction", 1.0)),
        ("W4A4", "W6A6"),
    ):
        found = allocate(
            random_analysis(seed),
            Budget.parse(budget),
            objective=Objective("bernoulli", utility, synergy, coupling),
            tied=tied,
        )
        rows.append(
            {
                "seed": seed,
                "bits": "tied" if tied else "free",
                "utility": utility,
                "synergy": synergy,
                "lambda": coupling,
                "budget": budget,
                "gap": found.gap,
                "seconds": found.seconds,
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--output", type=Path, default=Path("docs/data/solver.json"))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    rows = measure(arguments.seeds)
    summary = {
        bits: {
            "programs": len(some := [r for r in rows if r["bits"] == bits]),
            "proven": sum(r["gap"] == 0 for r in some),
            "largest_gap": max(r["gap"] for r in some),
            "median_seconds": float(np.median([r["seconds"] for r in some])),
            "largest_seconds": max(r["seconds"] for r in some),
        }
        for bits in ("tied", "free")
    }
    write_json(arguments.output, {"machine": machine(), "summary": summary, "rows": rows})
    print(summary)


if __name__ == "__main__":
    main()
