"""Kill `mixqsam quantize` at random moments; each rerun must give the result of an undisturbed run.

    python -m benchmarks.kill_anywhere [--count 50] [--seed 0] [--workers 2]

A tiny model is quantized with a reconstruction (calibration, analysis, allocation, pieces, check, writing). Each
trial starts with an empty cache, sends SIGKILL, SIGTERM or SIGINT at a moment drawn from the run's whole length, and
runs the same command again, unless the directory was complete already. It counts as survived where
- the rerun exits with 0 and everything in the directory is byte for byte that of an undisturbed run (times, date and
  command apart);
- no file of a finished stage that the first run left in the cache was written again;
- no other file is beside the directory, except an empty lock file if the kill came after the directory was complete.
Prints the trials and writes docs/data/kills.json.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.tiny import command, environment, make_model, make_pictures

DATA = Path(__file__).parents[1] / "docs/data/kills.json"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What is another every time: clocks, and the command with its directories.
_CLOCKS = ("seconds", "finished", "command")


@dataclass(frozen=True)
class Place:
    """Folders of one run."""

    folder: Path
    model: Path
    pictures: Path

    @property
    def out(self) -> Path:
        """The directory to write."""
        return self.folder / "out"

    @property
    def cache(self) -> Path:
        """The cache."""
        return self.folder / "cache"

    @property
    def words(self) -> list[str]:
        """`python -m mixqsam quantize …`."""
        words = ["quantize", "-m", self.model, "-i", self.pictures, "--grid", 2, "--count", 5, "-o", self.out]
        return command(*words, "--recipe", "qdrop", "--iterations", 12, "--eval-limit", 2, "--fisher-draws", 5)

    def start(self) -> subprocess.Popen[str]:
        """The command, running."""
        return subprocess.Popen(  # noqa: S603
            self.words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(self.cache)
        )


def without_clocks(value: Any) -> Any:
    """JSON without values that differ in every run."""
    if isinstance(value, dict):
        return {name: without_clocks(one) for name, one in value.items() if name not in _CLOCKS}
    return [without_clocks(one) for one in value] if isinstance(value, list) else value


def content(directory: Path) -> dict[str, str]:
    """File → hash of what has to be the same. Reports of people hold clocks, and are made of the other files."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_dir() or path.name in {"report.html", "summary.md"}:
            continue
        raw = path.read_bytes()
        if path.suffix == ".json":
            raw = json.dumps(without_clocks(json.loads(raw)), sort_keys=True).encode()
        found[str(path.relative_to(directory))] = hashlib.sha256(raw).hexdigest()
    return found


def finished(cache: Path) -> dict[Path, int]:
    """Files of finished stages → when they were written; activations that a reconstruction streams to disk are none."""
    files = [one for one in cache.rglob("*") if one.is_file() and not one.name.startswith(".")]
    return {one: one.stat().st_mtime_ns for one in files if one.suffix != ".lock" and not one.stem.isdigit()}


def streams(cache: Path) -> list[Path]:
    """Activation files that a reconstruction left on disk."""
    return [one for one in cache.rglob("*.safetensors") if one.stem.isdigit()]


def trial(place: Place, *, moment: float, number: signal.Signals, expected: Mapping[str, str]) -> dict[str, Any]:
    """One kill and one rerun."""
    process = place.start()
    time.sleep(moment)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    kept = finished(place.cache) if place.cache.exists() else {}
    faults = [] if process.returncode in {0, -number, 128 + number, 130} else [f"first: {process.returncode} {said}"]
    done_before = place.out.exists()
    leftovers_after_signal = number != signal.SIGKILL and any(place.folder.glob(".out.*"))
    if leftovers_after_signal:
        faults.append("leftovers after a signal that can be caught")
    if not done_before:
        again = place.start()
        _, said = again.communicate(timeout=300)
        if again.returncode:
            faults.append(f"rerun: {again.returncode} {said}")
    if place.out.exists() and content(place.out) != expected:
        odd = {name for name, value in content(place.out).items() if expected.get(name) != value}
        faults.append(f"another result: {sorted(odd | (expected.keys() - content(place.out).keys()))}")
    now = finished(place.cache)
    rewritten = [path.name for path, when in kept.items() if now.get(path) != when]
    if rewritten:
        faults.append(f"done again: {rewritten[:5]}")
    if left := streams(place.cache):
        faults.append(f"{len(left)} streams of activations left in the cache")
    known = {"out", "cache", *([".out.lock"] if done_before else [])}
    beside = sorted(path.name for path in place.folder.iterdir() if path.name not in known)
    if beside:
        faults.append(f"beside it: {beside}")
    return {"signal": number.name, "moment": moment, "kept": len(kept), "done_before": done_before, "faults": faults}


def main() -> None:
    """All trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=DATA)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, pictures = make_model(folder / "model"), make_pictures(folder / "pictures", count=7)

        def place(label: str) -> Place:
            (folder / label).mkdir()
            return Place(folder / label, model, pictures)

        calm = place("calm")
        started = time.monotonic()
        process = calm.start()
        _, said = process.communicate()
        assert process.returncode == 0, said
        length = (time.monotonic() - started) * (1.4 if chosen.workers > 1 else 1.0)
        expected = content(calm.out)
        draw = random.Random(chosen.seed)
        plans = [(draw.uniform(0.0, length), SIGNALS[index % len(SIGNALS)]) for index in range(chosen.count)]

        def run(index: int) -> dict[str, Any]:
            moment, number = plans[index]
            result = trial(place(f"trial-{index}"), moment=moment, number=number, expected=expected)
            print(
                f"{index:3} {result['signal']:8} at {moment:5.2f} s, {result['kept']:3} kept",
                *result["faults"],
                flush=True,
            )
            return result

        with ThreadPoolExecutor(chosen.workers) as pool:
            results = list(pool.map(run, range(chosen.count)))
    summary = {
        "machine": machine(),
        "length": length,
        "trials": len(results),
        "survived": sum(not one["faults"] for one in results),
        "by_signal": dict(Counter(one["signal"] for one in results)),
        "with_finished_stages": sum(one["kept"] > 0 and not one["done_before"] for one in results),
        "results": results,
    }
    chosen.output.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"{summary['survived']} of {summary['trials']} survived")


if __name__ == "__main__":
    main()
