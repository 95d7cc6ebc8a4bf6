"""Tables of reliability, from docs/data/*.json."""

from collections.abc import Sequence
from typing import Any

from benchmarks.performance_tables import line, load, machine_line

# The readers that the page shows beside the sum of all; docs/data/fuzzing.csv has all of them.
READERS = (
    "COCO annotations",
    "COCO results",
    "analysis",
    "packed tensors",
    "images",
    "Meta's .pth",
    "packed configuration",
)
ANSWERS = {
    "200": "answered",
    "503": "the queue was full; the page says that the server is busy",
    "400": "a request that makes no sense",
    "403": "a request of another web site",
    "413": "a request that is too large",
    "gone": "the client went away",
    "cut off": "the client was too slow",
}


def kills() -> str:
    """Results of killed commands."""
    data = load("kills")
    rows = [
        line(["signal", "commands killed", "of them with finished stages", "survived"]),
        line(["---", *["---:"] * 3]),
    ]
    for name in data["by_signal"]:
        trials = [one for one in data["results"] if one["signal"] == name]
        kept = sum(one["kept"] > 0 for one in trials)
        rows.append(line([name, str(len(trials)), str(kept), str(sum(not one["faults"] for one in trials))]))
    rows.append(line(["all", str(data["trials"]), str(data["with_finished_stages"]), str(data["survived"])]))
    return "\n".join([*rows, "", machine_line(data)])


def fuzzing() -> str:
    """Results of corrupted files."""
    data, guided = load("fuzzing"), load("guided")
    columns = ["reader", "files", "read", "refused", "faults", "files, guided by coverage", "faults"]
    rows = [line(columns), line(["---", *["---:"] * 6])]
    for name in READERS:
        # A guided run stops at its first fault, and its file then lacks the reader.
        more = [f"{guided[name]:,}", "0"] if name in guided else ["–", "–"]
        rows.append(line([name, *_counts(data["readers"][name]), *more]))
    readers = data["readers"].values()
    total = {key: sum(counts[key] for counts in readers) for key in ("inputs", "read", "refused")}
    total["faults"] = {"all": sum(sum(counts["faults"].values()) for counts in readers)}
    guided_inputs = sum(guided.get(name, 0) for name in data["readers"])
    rows.append(line([f"all {len(readers)} readers", *_counts(total), f"{guided_inputs:,}", "0"]))
    return "\n".join([*rows, "", machine_line(data)])


def _counts(counts: dict[str, Any]) -> list[str]:
    """What became of one reader's files."""
    return [*(f"{counts[key]:,}" for key in ("inputs", "read", "refused")), str(sum(counts["faults"].values()))]


def threads() -> str:
    """Differences between numbers of threads."""
    data = load("threads")
    rows = [line(["run", "rounding to nearest", "reconstruction"]), line(["---", "---", "---"])]
    differing = data["differing_files"]
    for run in differing["nearest"]:
        cells = [_names(differing[kind][run]) for kind in ("nearest", "reconstruction")]
        rows.append(line([_singular(run), *cells]))
    rows += ["", line(["logits with", "integer model", "simulation", "float model"]), line(["---"] * 4)]
    first = next(iter(data["predictions"].values()))
    for run, hashes in data["predictions"].items():
        rows.append(
            line(
                [
                    _singular(run),
                    *("the same" if one == two else "others" for one, two in zip(hashes, first, strict=True)),
                ]
            )
        )
    return "\n".join([*rows, "", machine_line(data)])


def _singular(run: str) -> str:
    """`1 threads, once`, as the data has it, with the right number."""
    return run.replace("1 threads", "1 thread")


def _names(files: Sequence[str]) -> str:
    """Files that differ, without pictures, which depend on them."""
    names = [name.rsplit("/", maxsplit=1)[-1] for name in files if name.endswith((".json", ".safetensors"))]
    return ", ".join(f"`{name}`" for name in names) if names else "the same"


def server() -> str:
    """Responses under load."""
    data = load("server_load")
    rows = [line(["answer", "requests", "meaning"]), line(["---", "---:", "---"])]
    rows += [line([answer, f"{data['by_status'][answer]:,}", meaning]) for answer, meaning in ANSWERS.items()]
    memory = data["memory_mb"]
    facts = (
        f"{data['clients']} clients for {data['seconds']:.0f} s: {data['requests']:,} requests, "
        f"{sum(data['wrong'].values())} wrong answers, {'a' if data['crashed'] else 'no'} crash. Slow clients were cut "
        f"off after {data['slow_kept_seconds']:.0f} s at most. Memory: {memory['start']:.0f} MB at the start, "
        f"{memory['second_third']:.0f} MB in the second third, {memory['last_third']:.0f} MB in the last."
    )
    return "\n".join([facts, "", *rows, "", machine_line(data)])
