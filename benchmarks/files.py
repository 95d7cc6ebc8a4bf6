"""Compare file sizes of full-size models with theory, and measure loading them in transformers.

    python -m benchmarks.files --output docs/data/files.json

Random weights of the architectures B, L and H; sizes do not depend on values. A separate process measures
loading, from the directory alone. Takes about 5 minutes on 2 cores, and 6 GB of memory for SAM-H.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from transformers import SamConfig

from benchmarks.harness import machine
from benchmarks.importance_cost import SIZES, random_sam
from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import save_model
from mixqsam.calibrate import Ranges
from mixqsam.families import prepare
from mixqsam.files import Cache, write_json
from mixqsam.plan import CANDIDATE_BITS, BitPlan, Costs, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.nearest import round_to_nearest
from mixqsam.quantization.setting import Setting, observed
from mixqsam.sam.load import Sam, default_processor
from mixqsam.weight_grids import WeightGrids

_LOAD = """
import json, sys, time
import mixqsam
from transformers import SamModel
started = time.perf_counter()
SamModel.from_pretrained(sys.argv[1])
seconds = time.perf_counter() - started
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "peak_gigabytes": peak * 1024 / 1e9}))
"""


def make(sam: Sam, plan: BitPlan, folder: Path) -> dict[str, Any]:
    """Write a directory; return the bytes of the file, of theory and of the header."""
    costs = sam.costs()
    span = dict.fromkeys(CANDIDATE_BITS, (-1.0, 1.0))
    values = {unit.name: dict.fromkeys(unit.activations, span) for unit in costs.units}
    weights = WeightGrids(sam, observer="minmax")
    ranges = Ranges("minmax", values)
    setting = Setting(sam, costs.units, plan, (), ranges, weights, Cache(folder), Silent())
    model = round_to_nearest(setting, observed(setting))
    size = save_model(model, Manifest.of(model, plan, recipe="minmax", prompts_per_image=1), folder)
    with (folder / "model.safetensors").open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little") + 8
    return {"bytes": size, "theory": costs.size(plan), "header": header}


def plans(costs: Costs) -> dict[str, BitPlan]:
    """Uniform plans, and mixtures."""
    found = {f"W{b}A{b}": BitPlan.uniform(costs.units, UnitBits(b, b)) for b in CANDIDATE_BITS}
    rng = np.random.default_rng(0)
    for index in range(3):
        bits = {u.name: UnitBits(*(int(b) for b in rng.integers(2, 9, 2))) for u in costs.units}
        found[f"mixture {index + 1}"] = BitPlan(bits)
    return found


def loaded(folder: Path) -> dict[str, float]:
    """Seconds and peak memory of `from_pretrained`."""
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _LOAD, str(folder)], check=True, capture_output=True, text=True
    )
    values: dict[str, float] = json.loads(found.stdout)
    return values


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--output", type=Path, default=Path("docs/data/files.json"))
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "files": {}, "loading": {}}
    for size in "blh":
        config = SamConfig(vision_config=SIZES[size])
        model = prepare(random_sam(config, implementation="eager"))
        sam = Sam(model, default_processor(config), f"vit-{size}")
        wanted = plans(sam.costs())
        for name, plan in wanted.items():
            if size != "b" and name != "W4A4":
                continue
            with tempfile.TemporaryDirectory() as folder:
                result["files"][f"SAM-{size.upper()} {name}"] = make(sam, plan, Path(folder))
                if name == "W4A4":
                    result["loading"][f"SAM-{size.upper()}"] = loaded(Path(folder))
    write_json(arguments.output, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
