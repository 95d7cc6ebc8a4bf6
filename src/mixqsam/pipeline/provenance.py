"""Provenance of a result: options, versions and machine."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mixqsam.allocation.budget import Budget
from mixqsam.options.fields import Nested
from mixqsam.options.flat import flat_values
from mixqsam.options.values import OptionClass
from mixqsam.pipeline.options import Evaluation, Options, Source

_PACKAGES = ("mixqsam", "torch", "transformers", "numpy", "safetensors", "highspy", "pillow")


def versions() -> dict[str, str]:
    """Package → version of everything that results depend on, Python first."""
    by_package = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            continue
    return by_package


def machine() -> dict[str, str]:
    """Processor, cores that may be used, operating system."""
    return {"cpu": _processor(), "cores": str(len(os.sched_getaffinity(0))), "system": platform.platform(terse=True)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def record_options(
    model: str | Path, data: Source, *, budget: Budget, options: Options, evaluation: Evaluation, device: str
) -> dict[str, Any]:
    """The options of a run, named as `mixqsam quantize --config` reads them."""
    path = Path(model).expanduser()
    return {
        "model": str(path.absolute()) if path.exists() else str(model),
        **(flat_values(data) if isinstance(data, OptionClass) else {}),
        "budget": budget.text,
        **flat_values(options, Nested(without=("observer",))),
        **flat_values(evaluation, Nested(prefix="eval_")),
        "device": device,
    }
