"""What `mixqsam.heap` saves: seconds and page faults of MobileSAM's float encoder in PyTorch.

    python -m benchmarks.heap      # about a minute on 2 cores; needs the checkpoint (scripts/get-mobile-sam)

Each setting has a process of its own, because freed memory stays in a process. The two alternate.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import machine
from mixqsam.files import write_json

_CODE = """
import json, resource, time, torch
from mixqsam.heap import keep_freed_memory
from mixqsam.sam.load import load_sam
{setting}
sam, frame = load_sam("mobile-sam"), torch.randn(1, 3, 1024, 1024)
seconds = []
with torch.no_grad():
    for _ in range(5):
        started = time.perf_counter()
        sam.model.vision_encoder(frame)
        seconds.append(time.perf_counter() - started)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([seconds[1:], usage.ru_minflt, usage.ru_maxrss * 1024]))
"""


def measure(*, keep: bool) -> tuple[list[float], int, int]:
    """Seconds of each run but the first, page faults, and the peak of memory in bytes."""
    code = _CODE.format(setting="assert keep_freed_memory()" if keep else "")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603
    seconds, faults, peak = json.loads(done.stdout)
    return seconds, faults, peak


def main() -> None:
    """Measure in turn, and write medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("docs/data/heap.json"))
    arguments = parser.parse_args()
    runs: dict[str, list[tuple[list[float], int, int]]] = {"returned": [], "kept": []}
    for _ in range(arguments.rounds):
        for name, found in runs.items():
            found.append(measure(keep=name == "kept"))
    content = {
        name: {
            "seconds": statistics.median(second for seconds, _, _ in found for second in seconds),
            "page_faults": statistics.median(faults for _, faults, _ in found),
            "peak_bytes": max(peak for _, _, peak in found),
        }
        for name, found in runs.items()
    }
    write_json(arguments.output, {"machine": machine(), **content})
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
