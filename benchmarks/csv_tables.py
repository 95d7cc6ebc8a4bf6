"""Full tables as docs/data/*.csv, for pages that show some of their rows."""

import csv
from collections.abc import Iterable, Mapping

from benchmarks.mixed_tables import csv_rows
from benchmarks.performance_tables import DOCS, load

Row = Mapping[str, object]


def write_tables() -> None:
    """Write every table."""
    tables: dict[str, Iterable[Row]] = {
        "agreement": _agreement(),
        "backends": _backends(),
        "files": _files(),
        "mixed_bits": csv_rows(),
        "fuzzing": _fuzzing(),
        "server_load": _server_load(),
    }
    for name, rows in tables.items():
        _write(name, list(rows))


def _write(name: str, rows: list[Row]) -> None:
    """One file; its columns are the keys of the first row."""
    with (DOCS / f"data/{name}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _agreement() -> Iterable[Row]:
    """What runtimes make of the same model."""
    data = load("agreement")
    for bits in ("W4A4", "W8A8"):
        for runtime, scores in data[bits].items():
            ious = {f"iou_to_ours_{key}": scores["to ours"][key] for key in ("mean", "median", "pixels")}
            yield {"bits": bits, "runtime": runtime, **ious, "iou_to_float_mean": scores["to float"]["mean"]}


def _backends() -> Iterable[Row]:
    """Encoders of ours and of others."""
    seconds, fidelity = load("backends")["seconds"], load("backends_fidelity")["mean_iou"]
    for name, value in seconds.items():
        speedup = seconds["PyTorch float32"] / value
        yield {"encoder": name, "seconds": value, "speedup": speedup, "mean_iou": fidelity.get(name, "")}


def _files() -> Iterable[Row]:
    """Bytes of files and of theory."""
    for name, sizes in load("files")["files"].items():
        yield {"model": name, **{key: sizes[key] for key in ("bytes", "theory", "header")}}


def _fuzzing() -> Iterable[Row]:
    """What became of spoiled files; guided runs have no faults, because they stop at the first."""
    readers, guided = load("fuzzing")["readers"], load("guided")
    for name, counts in readers.items():
        numbers = {key: counts[key] for key in ("inputs", "read", "refused")}
        faults = sum(counts["faults"].values())
        yield {"reader": name, **numbers, "faults": faults, "guided_inputs": guided.get(name, "")}


def _server_load() -> Iterable[Row]:
    """Requests by their kind and answer."""
    for key, count in load("server_load")["by_kind"].items():
        kind, answer = key.split(": ")
        yield {"request": kind, "answer": answer, "count": count}
