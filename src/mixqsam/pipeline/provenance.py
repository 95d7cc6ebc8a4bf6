"""Where a result was made: versions and machine, for whoever reads it later."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("mixqsam", "torch", "transformers", "numpy", "safetensors", "highspy", "pillow")


def versions() -> dict[str, str]:
    """Package → version of what results depend on, Python first."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


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
