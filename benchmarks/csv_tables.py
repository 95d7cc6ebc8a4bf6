"""Full tables as docs/data/*.csv, for pages that show some of their rows."""

import csv
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.performance_tables import DOCS, load
from benchmarks.recipe_tables import comparison
from mixqsam.reporting.comparison import to_csv

Row = Mapping[str, object]
FIGURES = ("AP", "IoU", "IoU to float")


def write_tables() -> None:
    """Write every table."""
    (DOCS / "data/recipes.csv").write_text(to_csv(comparison()), encoding="utf-8")
    tables: dict[str, Iterable[Row]] = {
        "allocation": _allocation(),
        "agreement": _agreement(),
        "backends": _backends(),
        "files": _files(),
        "fuzzing": _fuzzing(),
        "server_load": _server_load(),
    }
    for name, rows in tables.items():
        _write(name, list(rows))


def write_markdown(name: str, table: str) -> None:
    """Write a Markdown table as docs/data/NAME.csv; cells of three figures become three columns."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    triples = [all(cell.count(" / ") == len(FIGURES) - 1 for cell in column) for column in zip(*rows, strict=True)]
    _write(name, [_separate(header, row, triples) for row in rows])


def _separate(header: list[str], row: list[str], triples: list[bool]) -> Row:
    cells: dict[str, object] = {}
    for title, cell, is_triple in zip(header, row, triples, strict=True):
        if is_triple:
            # A column with the name of its figures needs no other.
            prefix = "" if title == " / ".join(FIGURES) else f"{title}: "
            cells |= {f"{prefix}{figure}": part for figure, part in zip(FIGURES, cell.split(" / "), strict=True)}
        else:
            cells[title] = cell
    return cells


def _write(name: str, rows: list[Row]) -> None:
    """One file; its columns are the keys of the first row."""
    with (DOCS / f"data/{name}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _allocation() -> Iterable[Row]:
    """Every way to choose bits at every budget, the float model first."""
    data = load("allocation")
    yield {**_choice({"bits": "float"}), **_quality(data["float"])}
    for row in data["rows"]:
        yield {**_choice(row), **_quality(row)}


def _choice(row: Mapping[str, Any]) -> Row:
    names = {"bits": "bits", "utility": "utility", "output": "output_distribution", "synergy": "synergy"}
    names |= {"lambda": "synergy_weight", "budget": "budget", "size": "size", "bitops": "bitops"}
    return {name: row.get(key, "") for key, name in names.items()}


def _quality(row: Mapping[str, Any]) -> Row:
    return {"ap": row["coco"]["ap"], "truth_iou": row["truth_iou"], "mean_iou": row["fidelity"]["mean_iou"]}


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
