"""Time encoders beside busy processes, with several ways in which OpenMP's threads wait for each other.

    python -m benchmarks.busy MODEL …

Each cell is a process of its own with two threads; `--busy` processes compute beside it all the time. Times are
medians of the rounds. A few minutes with SAM-B on 2 cores; the machine has to be quiet otherwise.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import machine
from mixqsam.files import write_json
from mixqsam.waiting import TURNS

# Waiting threads spin for milliseconds by default. `short` is what the command line sets; `passive` has no spinning.
POLICIES: dict[str, dict[str, str]] = {
    "default": {},
    "short": {"GOMP_SPINCOUNT": TURNS},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
_TIME = """
import sys, time, torch
from mixqsam.heap import keep_freed_memory
keep_freed_memory()
from mixqsam.pipeline.stages import make_predictor
torch.set_num_threads(2)
predictor = make_predictor(sys.argv[1])
sam = predictor.sam
pixels = torch.randn(1, 3, sam.image_size, sam.image_size, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    sam.family.encode(sam.model, pixels)
    for _ in range(int(sys.argv[2])):
        started = time.perf_counter()
        sam.family.encode(sam.model, pixels)
        print(time.perf_counter() - started)
"""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """While this is open, some processes compute without a pause."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def time_model(model: Path, *, policy: str, rounds: int) -> float:
    """Seconds of a pass of the encoder, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment |= POLICIES[policy]
    command = [sys.executable, "-c", _TIME, str(model), str(rounds)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603
    return median(float(line) for line in done.stdout.split())


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="float, or a directory of mixqsam")
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--policies", nargs="*", choices=list(POLICIES), default=["default", "short"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("docs/data/busy.json"))
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for count in arguments.busy:
        for policy in arguments.policies:
            with busy(count):
                seconds = {
                    model.name: time_model(model, policy=policy, rounds=arguments.rounds) for model in arguments.models
                }
            rows.append({"busy": count, "policy": policy, "seconds": seconds})
            print(rows[-1], flush=True)
            write_json(arguments.output, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
