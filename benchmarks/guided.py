"""Corrupt files for one reader, guided by coverage: inputs that reach new code are corrupted further.

    pip install atheris
    python -m benchmarks.guided "DOTA labels" [--count 100000]

Stops at the first fault (see `benchmarks.fuzzing`) and writes it to out/findings. The number of files goes to
docs/data/guided.json.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mixqsam"]):
    from benchmarks.fuzzing import attempt, fast_folder, keep
    from benchmarks.hostile import make_readers

DATA = Path(__file__).parents[1] / "docs/data/guided.json"


def main() -> None:
    """One reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader")
    parser.add_argument("--count", type=int, default=100_000)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mixqsam-guided-", dir=fast_folder()))
    reader = make_readers(folder / "seeds")[chosen.reader]
    (folder / "corpus").mkdir()
    (folder / "place").mkdir()
    for index, content in enumerate(reader.seeds):
        (folder / "corpus" / str(index)).write_bytes(content)
    tried = 0

    def one(content: bytes) -> None:
        nonlocal tried
        tried += 1
        if tried % 1000 == 0:
            # libFuzzer ends the process itself, so that there is no later.
            known = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
            DATA.write_text(json.dumps({**known, chosen.reader: tried}, indent=1) + "\n", encoding="utf-8")
        outcome = attempt(reader, folder / "place" / reader.name, content)
        if outcome not in {"read", "refused"}:
            keep(f"guided {chosen.reader}", 0, outcome, content)
            raise AssertionError(outcome)

    options = [f"-runs={chosen.count}", "-max_len=65536", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(folder / "corpus")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
