"""Helpers of measurements: alternating runs, medians, the machine, peak memory."""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mixqsam.pipeline import provenance


def machine() -> dict[str, Any]:
    """Description of the computer."""
    return {
        "cpu": provenance.machine()["cpu"],
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def peak_gigabytes() -> float:
    """The process's largest resident size so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def medians(actions: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Median seconds of each action; the actions alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(action: Callable[[], object]) -> float:
    """Seconds of one run."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
