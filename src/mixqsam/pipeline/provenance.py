"""Provenance of a result: options, versions and machine."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mixqsam.allocation.budget import Budget
from mixqsam.files import read_json
from mixqsam.options.fields import Nested
from mixqsam.options.flat import flat_values
from mixqsam.options.frames import split_frame
from mixqsam.options.values import OptionClass
from mixqsam.pipeline.options import AnalysisOptions, Evaluation, Options, Source
from mixqsam.reporting.record import NAME

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
    return {
        **_record_source(model, data),
        "budget": budget.text,
        **flat_values(options, Nested(without=("observer",))),
        **flat_values(evaluation, Nested(prefix="eval_")),
        "device": device,
    }


def record_analysis_options(model: str | Path, data: Source, options: AnalysisOptions, device: str) -> dict[str, Any]:
    """The options of an analysis, named as `mixqsam quantize` reads them; a recipe names the observer there."""
    return {**_record_source(model, data), **flat_values(options, Nested(without=("observer",))), "device": device}


def read_origin(analysis: Path) -> dict[str, Any]:
    """Read the options of the run that made an analysis file or a quantized directory; empty if it has none."""
    path = analysis / NAME if analysis.is_dir() else analysis
    content = read_json(path, what="the options of a run") if path.is_file() else {}
    options = content.get("options") if isinstance(content, dict) else None
    return options if isinstance(options, dict) else {}


def _record_source(model: str | Path, data: Source) -> dict[str, Any]:
    name, side = split_frame(model)
    path = Path(name).expanduser()
    return {
        "model": str(path.absolute()) if path.exists() else name,
        **({} if side is None else {"image_size": side}),
        **(flat_values(data) if isinstance(data, OptionClass) else {}),
    }
