"""Measure the time to a proven optimum for the largest models, with tied and free bits.

    python -m benchmarks.solver

Units, parameters and multiply-adds are those of SAM-H, SAM 2.1 large and SAM 3's tracker. Importance, synergy and
sensitivity are random (log-normal), without a helpful structure. About 15 minutes on one core. Finished kinds of bits
stay in the JSON file, and `--again` measures them again.
"""

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from transformers import SamConfig

from benchmarks.families import MODELS
from benchmarks.harness import machine
from benchmarks.importance_cost import SIZES
from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import allocate
from mixqsam.allocation.program import Objective, Utility
from mixqsam.files import read_json, write_json
from mixqsam.measurements import Analysis
from mixqsam.plan import CANDIDATE_BITS, HALF_BITS, Costs
from mixqsam.sam.units import count_costs

CONFIGS: dict[str, Callable[[], Any]] = {
    "SAM-H": lambda: SamConfig(vision_config=SIZES["h"]),
    "SAM 2.1 large": MODELS["sam2.1-hiera-large"],
    "SAM 3 tracker": MODELS["sam3-tracker"],
}
# Name → candidates, and whether weight and activation share them.
BITS: dict[str, tuple[tuple[int, ...], bool]] = {
    "tied, 2–8": (CANDIDATE_BITS, True),
    "free, 2–8": (CANDIDATE_BITS, False),
    "free, 2–8 and 16": ((*CANDIDATE_BITS, HALF_BITS), False),
}
# `fisher` has the form of `measured`.
COMPARED: tuple[Utility, ...] = ("linear", "exponential", "measured")
BUDGETS = ("W4A4", "W6A6")
SYNERGIES = (("proximity", 0.0), ("proximity", 0.1), ("proximity", 1.0), ("interaction", 0.1), ("interaction", 1.0))

# Of one seed.
_PROGRAMS = len(COMPARED) * len(SYNERGIES) * len(BUDGETS)


def random_analysis(costs: Costs, *, seed: int) -> Analysis:
    """A model's costs with random measurements."""
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
    return Analysis("random", 1, costs, {"bernoulli": omega}, synergy, {"bernoulli": sensitivity}, CANDIDATE_BITS)


def measure(model: str, bits: str, *, seeds: int) -> list[dict[str, Any]]:
    """Solve all combinations of one model."""
    costs, (candidates, tied) = count_costs(CONFIGS[model]()), BITS[bits]
    rows = []
    for seed, utility, (synergy, coupling), budget in product(range(seeds), COMPARED, SYNERGIES, BUDGETS):
        found = allocate(
            random_analysis(costs, seed=seed),
            Budget.parse(budget),
            objective=Objective("bernoulli", utility, synergy, coupling),
            candidates=candidates,
            tied=tied,
        )
        about = {"model": model, "units": len(costs.units), "bits": bits, "seed": seed, "utility": utility}
        about |= {"synergy": synergy, "lambda": coupling, "budget": budget}
        rows.append({**about, "gap": found.gap, "seconds": found.seconds})
        print(rows[-1], flush=True)
    return rows


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the programs of one model and one kind of bits have in common."""
    seconds = [row["seconds"] for row in rows]
    return {
        "units": rows[0]["units"],
        "programs": len(rows),
        "proven": sum(row["gap"] == 0 for row in rows),
        "largest_gap": max(row["gap"] for row in rows),
        "median_seconds": float(np.median(seconds)),
        "largest_seconds": max(seconds),
    }


def main() -> None:
    """Parse arguments, measure, write after each kind of bits."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--output", type=Path, default=Path("docs/data/solver.json"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="measure finished kinds of bits again")
    arguments = parser.parse_args()
    resumes = arguments.output.is_file() and not arguments.again
    content: dict[str, Any] = read_json(arguments.output, what="results") if resumes else {"summary": {}, "rows": []}
    summary, rows = content["summary"], content["rows"]
    for model, bits in product(CONFIGS, BITS):
        if bits.startswith("tied") and model != "SAM-H":
            continue
        if summary.get(f"{model}, {bits}", {}).get("programs") == arguments.seeds * _PROGRAMS:
            print(f"{model}, {bits}: known; --again measures it again")
            continue
        rows = [row for row in rows if (row["model"], row["bits"]) != (model, bits)]
        measured = measure(model, bits, seeds=arguments.seeds)
        rows += measured
        summary[f"{model}, {bits}"] = summarize(measured)
        write_json(arguments.output, {"machine": machine(), "summary": summary, "rows": rows})
        print(summary, flush=True)


if __name__ == "__main__":
    main()
