"""Others' post-training quantization of MobileSAM's image encoder, and ours: size, accuracy, latency.

    python -m benchmarks.peers_mobile_sam --coco COCO_FOLDER                  # every row, then latency
    python -m benchmarks.peers_mobile_sam --coco COCO_FOLDER --only latency   # interleaved runs of all finished rows
    python -m benchmarks.peers_mobile_sam --coco COCO_FOLDER --only table     # Markdown, from the JSON file

All are given the same float encoder, the same calibration images and the same boxes; the decoder is the float one for
all. Others get the encoder as ONNX with its convolutions as convolutions (NNCF as OpenVINO reads that file), PyTorch's
tools the model. Needs `pip install nncf optimum-quanto torchao` beside the extras: a row whose tool is missing or fails
says so. Finished files and rows are kept; a stopped run goes on. About 15 minutes a row on 2 cores, accuracy control
and mixed bits more.
"""

import argparse
import multiprocessing
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import mobile_encoders as encoders
from benchmarks import mobile_peers as makers
from benchmarks.ap_bootstrap import score_drawn
from benchmarks.encoders import Encoder, onnx_encoder, openvino_encoder, torch_encoder
from benchmarks.harness import interval, machine
from benchmarks.performance_tables import line
from mixqsam.cli.bars import ProgressBars
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import ONNX, OPENVINO
from mixqsam.deployed.names import ENCODER
from mixqsam.evaluation.coco import Truth
from mixqsam.evaluation.record import Record, measure
from mixqsam.files import parse_json, read_json, write_json
from mixqsam.prediction import Prediction, Predictor

_AP_DRAWS = 100
# OpenVINO computes what is float in an encoder in one of these.
_PRECISIONS = {"openvino": "f32", "bf16": "bf16"}


@dataclass(frozen=True)
class Row:
    """One tool in one setting.

    Attributes:
        title: as the table calls it.
        make: writes the encoder's files; returns those that are not named by `files`.
        files: of the encoder, by the runtime that they are for; the first is evaluated.
    """

    title: str
    make: Callable[[], None]
    files: Mapping[str, Path]


def rows(coco: Path, folder: Path, *, count: int, recipe: str) -> dict[str, Row]:
    """All rows, by their key in the JSON file."""
    graph, frames = folder / "float.onnx", folder / f"frames-{count}.npy"
    plain = _exported_files(folder / "float")
    found = {
        "float": Row("float", _nothing, plain),
        "bf16": Row("OpenVINO bf16", _nothing, {"bf16": plain["openvino"]}),
    }
    for key, settings in makers.STATIC.items():
        path = folder / f"{key}.onnx"
        make = partial(_apart, makers.make_static, graph, frames, path, settings)
        found[key] = Row(f"ONNX Runtime static, {settings.title}", make, {"onnx": path, "openvino": path})
    for key, title in makers.NNCF.items():
        path = folder / f"{key}.xml"
        make = partial(_apart, makers.make_nncf, graph, frames, path, key)
        found[key] = Row(f"NNCF, {title}", make, {"openvino": path})
    path = folder / "quanto.pt"
    make = partial(_apart, makers.make_quanto, frames, path)
    found["quanto"] = Row("optimum-quanto int8", make, {"torch": path})
    for budget in makers.OURS:
        key = f"ours {budget}"
        directory = folder / f"ours-{budget.replace(':', '-').lower()}"
        make = partial(_make_ours, coco, folder, budget, count, recipe)
        title = f"mixqsam, {budget.replace('uniform:', 'uniform ') if ':' in budget else f'mixed {budget}'}"
        files = _exported_files(directory)
        found[key] = Row(title, make, {**files, "bf16": files["openvino"]})
    return found


def _exported_files(directory: Path) -> dict[str, Path]:
    """The encoder of a directory in each runtime, as `mobile_encoders` names their directories."""
    return {b.name: b.file(directory.with_name(f"{directory.name}-{b.name}"), ENCODER) for b in (ONNX, OPENVINO)}


def _nothing() -> None:
    """The float model is there already."""


def _make_ours(coco: Path, folder: Path, budget: str, count: int, recipe: str) -> None:
    progress = ProgressBars()
    directory = encoders.quantized_directory(coco, folder, budget=budget, count=count, recipe=recipe, progress=progress)
    for backend in (ONNX, OPENVINO):
        encoders.exported(directory, backend)


def _apart(make: Callable[..., None], *parts: Any) -> None:
    """Run in a process of its own: a calibration that needs more memory than there is must not end all."""
    process = multiprocessing.get_context("spawn").Process(target=make, args=parts)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"it ended with exit code {process.exitcode} (-9 is out of memory)")


def open_encoder(runtime: str, path: Path) -> Encoder:
    """An encoder's file in a runtime."""
    if runtime == "onnx":
        return onnx_encoder(path)
    if runtime in _PRECISIONS:
        return openvino_encoder(str(path), precision=_PRECISIONS[runtime])
    return torch_encoder(makers.load_quanto(path))


class Judge:
    """Compares encoders with the float model on some images.

    Args:
        folder: where the float model and its masks are kept.
        coco: the data.
        samples: images and boxes.
    """

    def __init__(self, folder: Path, coco: Path, samples: Sequence[Sample]) -> None:
        self._folder, self.samples = folder, samples
        self.annotations = encoders.coco_data(coco, "val").annotations
        assert self.annotations is not None
        self.truth = Truth(self.annotations)
        self._floats: dict[int, Prediction] = {}

    def predictor(self, encoder: Encoder) -> Predictor:
        """A predictor with this encoder and the float decoder."""
        return encoders.EncoderPredictor(self._folder / "float-onnx", encoder, threads=torch.get_num_threads())

    def reference(self, sample: Sample) -> Prediction:
        """The float model's masks, kept in a file of their own for each image."""
        if sample.image_id not in self._floats:
            path = self._folder / "reference" / f"{sample.image_id}.pickle"
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                file = ONNX.file(self._folder / "float-onnx", ENCODER)
                predictor = self.predictor(onnx_encoder(file))
                predictor.set_image(sample.open())
                path.write_bytes(pickle.dumps(predictor.segment(sample.prompts)))
            # Written by this program, in its own folder.
            self._floats[sample.image_id] = pickle.loads(path.read_bytes())  # noqa: S301
        return self._floats[sample.image_id]

    def records(self, encoder: Encoder) -> list[Record]:
        """What is measured of each image."""
        predictor, found = self.predictor(encoder), []
        for sample in self.samples:
            predictor.set_image(sample.open())
            found.append(measure(sample, predictor.segment(sample.prompts), self.reference(sample), truth=self.truth))
        return found

    def figures(self, records: Sequence[Record]) -> dict[str, Any]:
        """Means with 95% intervals of a bootstrap over images."""
        return {
            "iou_float": interval([record["ious"] for record in records]),
            "iou_float_median": float(np.median([iou for one in records for iou in one["ious"]])),
            "iou_truth": interval([record["truth_ious"] for record in records]),
            "ap": self._ap(records),
        }

    def _ap(self, records: Sequence[Record]) -> list[float]:
        assert self.annotations is not None
        content: Any = parse_json(self.annotations.read_text(encoding="utf-8"))
        images = [sample.image_id for sample in self.samples]
        results = {image: list(one["results"]) for image, one in zip(images, records, strict=True)}
        draws = np.random.default_rng(0).integers(0, len(records), (_AP_DRAWS, len(records)))
        whole = self.truth.score([r for one in records for r in one["results"]], images=images).ap
        drawn = [score_drawn(content, results, [images[i] for i in draw], self._folder) for draw in draws]
        return [whole, *(float(v) for v in np.percentile(drawn, [2.5, 97.5]))]


def run_row(row: Row, judge: Judge) -> dict[str, Any]:
    """Make, measure; a failure is what the record says."""
    try:
        started = time.perf_counter()
        if not all(path.exists() for path in row.files.values()):
            row.make()
        made = time.perf_counter() - started
        runtime, path = next(iter(row.files.items()))
        figures = judge.figures(judge.records(open_encoder(runtime, path)))
    # Tools of others fail in ways of their own; the next row has to be run all the same.
    except Exception as error:
        return {"title": row.title, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    size = {name: encoders.file_bytes(one) for name, one in row.files.items()}
    return {"title": row.title, "judged_in": runtime, "bytes": size, "seconds_to_make": made, **figures}


def add_latency(content: dict[str, Any], known: Mapping[str, Row], folder: Path, *, rounds: int, count: int) -> None:
    """One encoder after the other, round by round; earlier rounds stay, and the medians are over all of them."""
    frame = encoders.frames_of(folder / f"frames-{count}.npy")[0]
    running = {
        (key, runtime): open_encoder(runtime, path)
        for key, row in known.items()
        if "failed" not in content["rows"].get(key, {"failed": True})
        for runtime, path in row.files.items()
        # The page compares within ONNX Runtime and OpenVINO, and quanto's tensors cannot have their channels last.
        if runtime != "torch"
    }
    for run in running.values():
        run(frame)
    for _ in range(rounds):
        for (key, runtime), run in running.items():
            started = time.perf_counter()
            run(frame)
            times = content["rows"][key].setdefault("latency", {}).setdefault(runtime, [])
            times.append(round(time.perf_counter() - started, 5))


def table(content: Mapping[str, Any]) -> str:
    """The rows as Markdown."""
    columns = ["", "encoder", "IoU with float", "IoU with the truth", "AP", "ONNX Runtime", "OpenVINO"]
    lines = [line(columns), line(["---", *["---:"] * 6])]
    for row in content["rows"].values():
        if "failed" in row:
            lines.append(line([row["title"], row["failed"], *["–"] * 5]))
            continue
        size = f"{next(iter(row['bytes'].values())) / 1e6:.1f} MB"
        ious = [_cell(row[key], digits=3) for key in ("iou_float", "iou_truth")]
        times = [row.get("latency", {}).get(runtime) for runtime in ("onnx", "openvino")]
        cells = ["–" if one is None else f"{np.median(one) * 1000:.0f} ms" for one in times]
        lines.append(line([row["title"], size, *ious, _cell(row["ap"], digits=1), *cells]))
    return "\n".join(lines)


def _cell(values: Sequence[float], *, digits: int) -> str:
    middle, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low}–{high})"


def main() -> None:
    """Parse arguments, make, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("out/peers-mobile-sam"))
    parser.add_argument("--output", type=Path, default=Path("docs/data/peers_mobile_sam.json"))
    parser.add_argument("--only", nargs="*", default=[], help="keys of rows, `latency`, `table`")
    parser.add_argument("--first", type=int, default=50, help="images of val to leave out before the first")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--recipe", default="omse", help="of ours")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    known = rows(arguments.coco, folder, count=arguments.calibration, recipe=arguments.recipe)
    content: dict[str, Any] = read_json(arguments.output, what="results") if arguments.output.exists() else {"rows": {}}
    content |= {"machine": machine(), "images": arguments.images, "calibration": arguments.calibration}
    wanted = arguments.only or [*known, "latency", "table"]
    if set(wanted) - {"table"}:
        sam = encoders.load_model()
        for backend in (ONNX, OPENVINO):
            encoders.float_directory(sam, folder, backend)
        encoders.float_graph(sam, folder)
        encoders.calibration_frames(sam, arguments.coco, arguments.calibration, folder)
    samples = encoders.judged_samples(arguments.coco, first=arguments.first, count=arguments.images)
    judge = Judge(folder, arguments.coco, samples)
    for key in [key for key in known if key in wanted]:
        if "failed" in content["rows"].get(key, {"failed": True}):
            content["rows"][key] = run_row(known[key], judge)
            print(key, {k: v for k, v in content["rows"][key].items() if k != "title"}, flush=True)
            write_json(arguments.output, content)
    if "latency" in wanted:
        add_latency(content, known, folder, rounds=arguments.rounds, count=arguments.calibration)
        write_json(arguments.output, content)
    print(table(content))


if __name__ == "__main__":
    main()
