"""Tables of reliability, from docs/data/*.json."""

from collections import Counter
from collections.abc import Sequence

from benchmarks.performance_tables import line, load, machine_line


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
    for name, one in data["readers"].items():
        counts = [f"{one[key]:,}" for key in ("inputs", "read", "refused")]
        # A guided run stops at its first fault, and then is not told of.
        more = [f"{guided[name]:,}", "0"] if name in guided else ["–", "–"]
        rows.append(line([name, *counts, str(sum(one["faults"].values())), *more]))
    return "\n".join([*rows, "", machine_line(data)])


def threads() -> str:
    """Differences between numbers of threads."""
    data = load("threads")
    rows = [line(["run", "rounding to nearest", "reconstruction"]), line(["---", "---", "---"])]
    differing = data["differing_files"]
    for run in differing["nearest"]:
        cells = [_names(differing[kind][run]) for kind in ("nearest", "reconstruction")]
        rows.append(line([run, *cells]))
    rows += ["", line(["logits with", "integer model", "simulation", "float model"]), line(["---"] * 4)]
    first = next(iter(data["predictions"].values()))
    for run, hashes in data["predictions"].items():
        rows.append(
            line([run, *("the same" if one == two else "others" for one, two in zip(hashes, first, strict=True))])
        )
    return "\n".join([*rows, "", machine_line(data)])


def _names(files: Sequence[str]) -> str:
    """Files that differ, without pictures, which depend on them."""
    told = [name.rsplit("/", maxsplit=1)[-1] for name in files if name.endswith((".json", ".safetensors"))]
    return ", ".join(f"`{name}`" for name in told) if told else "the same"


def server() -> str:
    """Responses under load."""
    data = load("server_load")
    kinds: dict[str, Counter[str]] = {}
    for key, count in data["by_kind"].items():
        kind, status = key.split(": ")
        kinds.setdefault(kind, Counter())[status] += count
    rows = [line(["request", "sent", "answers"]), line(["---", "---:", "---"])]
    for kind, statuses in kinds.items():
        answers = ", ".join(f"{status}: {count:,}" for status, count in statuses.most_common())
        rows.append(line([kind, f"{statuses.total():,}", answers]))
    memory = data["memory_mb"]
    facts = (
        f"{data['clients']} clients for {data['seconds']:.0f} s: {data['requests']:,} requests, "
        f"{sum(data['wrong'].values())} wrong answers, {'a' if data['crashed'] else 'no'} crash. Slow clients were cut "
        f"off after {data['slow_kept_seconds']:.0f} s at most. Memory: {memory['start']:.0f} MB at the start, "
        f"{memory['second_third']:.0f} MB in the second third, {memory['last_third']:.0f} MB in the last."
    )
    return "\n".join([facts, "", *rows, "", machine_line(data)])
