"""Predicted and measured latency of models that budgets of latency make, on OpenVINO and ONNX Runtime.

    python -m benchmarks.latency_budget --coco COCO_FOLDER --model sam-tiny --model mobile-sam

Times of units are measured first, if the cache does not hold them. For each backend some budgets between the fastest
bits and 16 bits are allocated. Their models are rounded to nearest on one image, which is as fast as any rounding, and
timed in turns with the float model. Results are merged into docs/data/latency_budget.json after each backend.

On a quiet core, `sam-tiny` takes about 5 minutes, MobileSAM about 15.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from benchmarks.harness import machine
from mixqsam.allocation.budget import Budget
from mixqsam.files import write_json
from mixqsam.measurements import Analysis
from mixqsam.pipeline.analyze import run_analysis
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, Data
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import choose_bits
from mixqsam.pipeline.timed_models import TimedModels
from mixqsam.pipeline.unit_times import find_times, time_in_turns
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.sam.load import Sam, load_sam

OUTPUT = Path(__file__).parents[1] / "docs/data/latency_budget.json"
# Places of the budgets between the fastest bits and 8-bit weights with activations of 16 bits, and a limit of the size.
PLACES = (("", 0.1), ("", 0.5), ("0.2x,", 0.3))
ANALYSIS = AnalysisOptions(
    count=2, prompts=2, fisher=("bernoulli",), fisher_draws=2, importance=False, pairs=False, sensitivity_bits=()
)


def choose_budgets(analysis: Analysis, backend: str) -> list[str]:
    """Choose budgets between the fastest bits and those without integer products."""
    costs = analysis.costs
    whole = costs.latency(costs.float_plan)
    fastest, mixed = costs.fixed_latency / whole, costs.latency(BitPlan.uniform(costs.units, UnitBits(8, 16))) / whole
    shares = [(more, fastest + place * (min(1.0, mixed) - fastest)) for more, place in PLACES]
    return [f"{more}latency<={share:.2f}x@{backend}" for more, share in shares]


def measure(sam: Sam, analysis: Analysis, backend: str, session: Session) -> dict[str, Any]:
    """Predict and measure the latency of the models of some budgets."""
    started = monotonic()
    timed = analysis.with_times(find_times(sam, backend, session))
    seconds, costs = monotonic() - started, timed.costs
    plans = {"float": costs.float_plan}
    for text in choose_budgets(timed, backend):
        plans[text] = choose_bits(timed, Budget.parse(text), options=AllocationOptions()).plan
    with tempfile.TemporaryDirectory() as folder:
        models = TimedModels(sam, backend, Path(folder))
        runs = time_in_turns({name: models.load(plan) for name, plan in plans.items()}, models.picture, models.prompts)
    measured = {name: float(np.median(np.sum(values, axis=1))) for name, values in runs.items()}
    predicted = {name: costs.latency(plan) for name, plan in plans.items()}
    rows = [
        {
            "budget": name,
            "size": costs.size(plan),
            "predicted": predicted[name],
            "measured": measured[name],
            "predicted_share": predicted[name] / predicted["float"],
            "measured_share": measured[name] / measured["float"],
        }
        for name, plan in plans.items()
    ]
    return {"timing_seconds": seconds, "runs": len(runs["float"]), "rows": rows}


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--backend", action="append")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    found = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"models": {}}
    data = Data(arguments.coco / "val2017", arguments.coco / "annotations/instances_val2017.json")
    session = Session()
    for name in arguments.model:
        sam = load_sam(name)
        analysis = run_analysis(name, data, options=ANALYSIS, session=session)
        analysis = replace(analysis, costs=replace(analysis.costs, prompts_per_image=1))
        for backend in arguments.backend or ("openvino", "onnx"):
            found["machine"] = machine()
            found["models"].setdefault(name, {})[backend] = measure(sam, analysis, backend, session)
            write_json(arguments.output, found)
            print(name, backend, json.dumps(found["models"][name][backend], indent=1), flush=True)


if __name__ == "__main__":
    main()
