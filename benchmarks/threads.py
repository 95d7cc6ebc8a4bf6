"""Check that results are bit-identical in two runs, and with 1, 2 and 4 threads.

    python -m benchmarks.threads

Quantizes `sam-tiny` on the photographs of the demonstration (analysis, allocation, rounding to nearest) and a tiny
model with a reconstruction, each time with an empty cache, and compares what was written, file by file. Logits of the
integer model, of its simulation and of the float model are compared too. Writes docs/data/threads.json.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import machine
from benchmarks.kill_anywhere import content
from benchmarks.tiny import command, environment, make_model, make_pictures

DATA = Path(__file__).parents[1] / "docs/data/threads.json"
RUNS = (("1", "once"), ("1", "again"), ("2", "once"), ("2", "again"), ("4", "once"))
_MASKS = """
import hashlib, sys, numpy as np, mixqsam
from mixqsam.data.demo import EVALUATION, demo_samples
from mixqsam.sam.predictor import SamPredictor
simulated = SamPredictor(mixqsam.load(sys.argv[1]))
for predictor in (mixqsam.predictor(sys.argv[1]), simulated, mixqsam.predictor("sam-tiny")):
    total = hashlib.sha256()
    for sample in demo_samples(EVALUATION):
        predictor.set_image(sample.open())
        total.update(predictor.segment(sample.prompts).logits.tobytes())
    print(total.hexdigest())
"""


def quantized(folder: Path, words: list[object], threads: str) -> dict[str, str]:
    """File → hash, of one run with an empty cache."""
    settings = {**environment(folder / "cache"), "OMP_NUM_THREADS": threads}
    subprocess.run(command(*words), env=settings, check=True, capture_output=True)  # noqa: S603
    return content(folder / "out")


def masks(directory: Path, threads: str) -> list[str]:
    """Hashes of the logits of: the integer model, its simulation, the float model."""
    settings = {**environment(directory), "OMP_NUM_THREADS": threads}
    words = [sys.executable, "-c", _MASKS, str(directory)]
    done = subprocess.run(words, env=settings, check=True, capture_output=True, text=True)  # noqa: S603
    return done.stdout.split()


def main() -> None:
    """All runs."""
    found: dict[str, dict[str, dict[str, str]]] = {"nearest": {}, "reconstruction": {}}
    predictions: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, pictures = make_model(folder / "model"), make_pictures(folder / "pictures", count=7)
        for threads, label in RUNS:
            key, place = f"{threads} threads, {label}", folder / f"{threads}-{label}"
            for kind in found:
                (place / kind).mkdir(parents=True)
            demo: list[object] = ["demo", "-o", place / "nearest/out"]
            found["nearest"][key] = quantized(place / "nearest", demo, threads)
            words: list[object] = ["quantize", "-m", model, "-i", pictures, "--grid", 2, "--count", 5]
            words += ["--recipe", "qdrop", "--iterations", 20, "-o", place / "reconstruction/out"]
            found["reconstruction"][key] = quantized(place / "reconstruction", words, threads)
            print(key, {kind: hashlib.sha256(str(runs[key]).encode()).hexdigest()[:8] for kind, runs in found.items()})
        out = folder / "demo"
        subprocess.run(command("demo", "-o", out), check=True, capture_output=True)  # noqa: S603
        for threads in ("1", "2", "4"):
            predictions[f"{threads} threads"] = masks(out / "quantized", threads)
    summary = {
        "machine": machine(),
        "differing_files": {kind: _differing(runs) for kind, runs in found.items()},
        "predictions": predictions,
    }
    DATA.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


def _differing(runs: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """Run → files that differ from the first run."""
    first = next(iter(runs.values()))
    return {key: sorted(name for name in first if files.get(name) != first[name]) for key, files in runs.items()}


if __name__ == "__main__":
    main()
