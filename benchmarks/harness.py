"""Helpers of measurements: alternating runs, medians, the machine, peak memory."""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
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


def interval(by_image: Sequence[Sequence[float]], *, draws: int = 1000) -> list[float]:
    """Mean over all prompts, and the ends of its 95% interval: a bootstrap over images."""
    drawn = np.random.default_rng(0).integers(0, len(by_image), (draws, len(by_image)))
    sums, counts = (np.array([measure(image) for image in by_image]) for measure in (sum, len))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return [float(sums.sum() / counts.sum()), *(float(end) for end in np.percentile(means, [2.5, 97.5]))]
