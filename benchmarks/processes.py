"""Evaluate coco-mini with one process and with two; compare figures and times.

    python -m benchmarks.processes --coco ../shared/data/coco-mini --output docs/data/processes.json

sam-tiny as float model and as `mixqsam quantize` makes it at W4A4, 100 images, one thread for each process. About 3
minutes on 2 cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from mixqsam.files import write_json


def run(arguments: list[str], *, world: int, cache: Path) -> float:
    """Seconds of a command in a number of processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)] if world > 1 else []
    command = [sys.executable, *launcher, "-m", "mixqsam", *arguments]
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MIXQSAM_CACHE": str(cache)}
    subprocess.run(command, check=True, capture_output=True, env=environment)  # noqa: S603
    return time.perf_counter() - started


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/data/processes.json"))
    arguments = parser.parse_args()
    coco: Path = arguments.coco
    results: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = ["-i", str(coco / "train2017"), "--annotations", str(coco / "annotations/instances_train2017.json")]
        made = ["quantize", *train, "-n", "8", "--budget", "uniform:W4A4", "--eval-limit", "0"]
        made += ["-o", str(folder / "out")]
        run(made, world=1, cache=folder / "making")
        val = ["-i", str(coco / "val2017"), "--annotations", str(coco / "annotations/instances_val2017.json")]
        scores = []
        for world in (1, 2):
            output = folder / f"{world}.json"
            command = ["evaluate", str(folder / "out"), *val, "--processes", str(world), "-o", str(output)]
            results[str(world)] = run(command, world=world, cache=folder / f"cache{world}")
            results[f"{world}, again"] = run(command, world=world, cache=folder / f"cache{world}")
            scores.append(json.loads(output.read_text(encoding="utf-8")))
        results["equal"] = scores[0] == scores[1]
        results["scores"] = scores[0]
    print(results)
    write_json(arguments.output, results)


if __name__ == "__main__":
    main()
