"""Time segmenting everything with models of 8 bits in every runtime, beside the float model in PyTorch.

    python -m benchmarks.everything --image PHOTO --work FOLDER

Each model is rounded to nearest with ranges of the photograph, which is as fast as any rounding; FOLDER keeps the
directories. The runs of the runtimes alternate. Results are merged into docs/data/everything.json after each model, and
a model that it has already is left out (`--again` measures it again). On a quiet machine with two cores, `sam-tiny`
takes about a minute and MobileSAM about four.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import mixqsam
from benchmarks.harness import machine
from mixqsam.files import write_json
from mixqsam.pipeline.options import AnalysisOptions, Options, QuantizationOptions

OUTPUT = Path(__file__).parents[1] / "docs/data/everything.json"
OPTIONS = Options(analysis=AnalysisOptions(count=1), quantization=QuantizationOptions(recipe="minmax"))


def find_directory(model: str, image: Path, *, work: Path) -> Path:
    """Find the quantized directory of a model, or make it from one photograph."""
    directory, photos = work / model, work / "photos"
    if not directory.is_dir():
        photos.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, photos)
        mixqsam.quantize(model, photos, budget="uniform:W8A8", output=directory, options=OPTIONS)
    return directory


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", action="append")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    found: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    models = found.setdefault("models", {})
    for name in arguments.model or ("sam-tiny", "mobile-sam"):
        if name in models and not arguments.again:
            continue
        directory = find_directory(name, arguments.image, work=arguments.work)
        times = mixqsam.benchmark(directory, image=arguments.image, runs=arguments.runs, memory=False, everything=True)
        models[name] = times.to_json() | {"runs": arguments.runs}
        found["machine"] = machine()
        write_json(arguments.output, found)
        print(name, json.dumps(models[name]["rows"], indent=1), flush=True)


if __name__ == "__main__":
    main()
