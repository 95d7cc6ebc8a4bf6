"""Describe the predicted and the measured latency of a model, in sentences and as a table."""

from mixqsam.options.numbers import format_time
from mixqsam.reporting.record import Latency

# Smaller changes of the float model's time are noise.
_PACE = 0.1


def describe_latency(latency: Latency) -> list[str]:
    """Say how long an image takes, how long it was predicted to take, and what the float model takes."""
    prompts = "1 prompt" if latency.prompts == 1 else f"{latency.prompts} prompts"
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    share = "" if latency.float_predicted is None else f", {latency.predicted / latency.float_predicted:.2f} of float"
    sentences = [
        f"An image with {prompts} takes {format_time(latency.measured)} with {latency.backend} and {threads} on the "
        f"machine of this run, {latency.measured / latency.float_measured:.2f} of the float model's time.",
        f"The prediction was {format_time(latency.predicted)}{share}.",
    ]
    if latency.measured > latency.limit:
        sentences.append(f"The measured time is above the limit of {format_time(latency.limit)}.")
    return sentences + _describe_pace(latency)


def _describe_pace(latency: Latency) -> list[str]:
    """Say that the machine had another pace when the units were timed, if the float model shows it."""
    if latency.float_predicted is None:
        return []
    pace = latency.float_measured / latency.float_predicted
    if abs(pace - 1) < _PACE:
        return []
    return [
        f"The float model took {pace:.2f} times as long as when the units were timed, so the load of the machine has "
        "changed."
    ]


def tabulate_latency(latency: Latency) -> list[list[str]]:
    """Make rows of predicted and measured times, the float model's first; the first row has the headings."""
    start = "–" if latency.float_predicted is None else format_time(latency.float_predicted)
    return [
        ["model", "predicted", "measured", "limit"],
        ["float", start, format_time(latency.float_measured), ""],
        ["quantized", format_time(latency.predicted), format_time(latency.measured), format_time(latency.limit)],
    ]
