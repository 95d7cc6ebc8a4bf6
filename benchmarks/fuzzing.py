"""Give corrupted files to every reader; each must return a result or raise an error of mixqsam.

    python -m benchmarks.fuzzing [--count 100000] [--readers images "COCO annotations"] [--seed 0] [--workers 2]

Valid files are corrupted: bits, slices, numbers in headers, and single values of JSON. Each reader runs in a separate
process that may allocate 3 GB. Faults are larger allocations, crashes, exceptions that are not errors of mixqsam, and
ten seconds for one file. Faults and their inputs are written to out/findings, the numbers to docs/data/fuzzing.json.
The first inputs of each reader are valid files, which check the test itself. `benchmarks.guided` does the same, guided
by coverage.
"""

import argparse
import contextlib
import json
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.hostile import Reader, make_readers
from benchmarks.spoil import spoiled
from mixqsam.errors import MixqsamError

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs/data/fuzzing.json"
FINDINGS = ROOT / "out/findings"
MEMORY = 3 << 30
SECONDS = 10


class TookTooLong(Exception):  # noqa: N818  (it is not an error of the reader's)
    """A file has taken too long."""


def give_up(*_: object) -> None:
    """Handle the alarm."""
    raise TookTooLong


def attempt(reader: Reader, path: Path, content: bytes) -> str:
    """Read one content: `read`, `refused`, or the last frame of mixqsam in a fault."""
    path.write_bytes(content)
    signal.signal(signal.SIGPROF, give_up)
    # Of processor time: a process that others keep waiting is not at fault.
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reader.read(path)
    except MixqsamError:
        return "refused"
    except BaseException as error:
        return _place(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "read"


def _place(error: BaseException) -> str:
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "mixqsam" in one.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:120]}"


def work(name: str, folder: Path, *, seed: int, start: int, count: int, channel: Any) -> None:
    """Run one process; report the counts of every hundred contents, every fault, and the end."""
    sys.stderr = open("/dev/null", "w")  # noqa: PTH123, SIM115
    reader = make_readers(folder / "seeds")[name]
    place = folder / "place"
    place.mkdir()
    before = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (before + MEMORY, before + MEMORY))
    outcomes: Counter[str] = Counter()
    for index, content in spoiled(reader.seeds, text=reader.text, seed=seed, start=start):
        if index >= count:
            break
        if index % 100 == 0:
            channel.send(("at", (index, dict(outcomes))))
            outcomes.clear()
        outcome = attempt(reader, place / reader.name, content)
        if outcome in {"read", "refused"}:
            outcomes[outcome] += 1
            if index < len(reader.seeds) and outcome != "read":
                # Some seeds are bombs; the rest has to be accepted.
                channel.send(("seed refused", index))
        else:
            channel.send(("fault", (index, outcome, content)))
    channel.send(("done", dict(outcomes)))


class Tally:
    """Counts of one reader's results."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.faults: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.refused_seeds = self.at = 0
        self.finished = False

    def hear(self, kind: str, value: Any) -> None:
        """Handle one message of the worker."""
        if kind == "at":
            self.at, counts = value
            self.totals.update(counts)
        elif kind == "fault":
            self.at, outcome, content = value
            self.fault(outcome, content)
        elif kind == "seed refused":
            self.refused_seeds += 1
        else:
            self.totals.update(value)
            self.finished = True

    def fault(self, outcome: str, content: bytes) -> None:
        """Count a fault; store the first of its kind."""
        if self.faults[outcome] == 0:
            keep(self.name, self.at, outcome, content)
        self.faults[outcome] += 1


def fuzz(name: str, *, seed: int, count: int) -> dict[str, Any]:
    """Try all contents of one reader; continue after crashes."""
    started, start, tally = time.monotonic(), 0, Tally(name)
    while not tally.finished and start < count:
        folder = Path(tempfile.mkdtemp(prefix="mixqsam-fuzzing-", dir=fast_folder()))
        code = _listen(tally, folder, seed=seed, start=start, count=count)
        if not tally.finished:
            current = next(iter((folder / "place").glob("*")), None)
            tally.fault(f"crash, exit code {code}", current.read_bytes() if current else b"")
        shutil.rmtree(folder, ignore_errors=True)
        start = tally.at + 100
    return {
        "inputs": count,
        "read": tally.totals["read"],
        "refused": tally.totals["refused"],
        "faults": dict(tally.faults),
        "refused_seeds": tally.refused_seeds,
        "seconds": time.monotonic() - started,
    }


def _listen(tally: Tally, folder: Path, *, seed: int, start: int, count: int) -> int | None:
    """Run one worker to its end or crash, and return its exit code."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    settings = {"seed": seed, "start": start, "count": count, "channel": theirs}
    process = context.Process(target=work, args=(tally.name, folder), kwargs=settings)
    process.start()
    theirs.close()
    with contextlib.suppress(EOFError):
        while True:
            tally.hear(*mine.recv())
    process.join()
    return process.exitcode


def fast_folder() -> str | None:
    """A folder in memory, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


def keep(name: str, index: int, outcome: str, content: bytes) -> None:
    """Write a fault and its input to out/findings."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace(' ', '-').replace('/', '')}-{index}"
    (FINDINGS / f"{stem}.bin").write_bytes(content)
    (FINDINGS / f"{stem}.txt").write_text(outcome + "\n", encoding="utf-8")


def main() -> None:
    """Run all readers, several at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--readers", nargs="*", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=DATA)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        names = chosen.readers or list(make_readers(Path(name)))
    known: dict[str, Any] = {"readers": {}}
    if chosen.readers and chosen.output.exists():
        known = json.loads(chosen.output.read_text(encoding="utf-8"))

    def run(one: str) -> None:
        found = fuzz(one, seed=chosen.seed, count=chosen.count)
        known["readers"][one] = found
        known.update(machine=machine(), seed=chosen.seed)
        chosen.output.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        print(f"{one}: {found}", flush=True)

    with ThreadPoolExecutor(chosen.workers) as pool:
        list(pool.map(run, names))


if __name__ == "__main__":
    main()
