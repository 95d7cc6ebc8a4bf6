"""Times of the units of a model in a backend on this machine: measured once, and kept in the cache."""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mixqsam.allocation.budget import Budget
from mixqsam.deployed.backends import BACKENDS
from mixqsam.errors import ArtifactError, InputError
from mixqsam.evaluation.latency import time_runs
from mixqsam.evaluation.unit_times import TimedPlan, design_plans, fit_times, uniform_plan
from mixqsam.files import Cache, digest
from mixqsam.measurements import Analysis
from mixqsam.pipeline.provenance import machine
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import TORCH
from mixqsam.pipeline.timed_models import TimedModels, check_installed
from mixqsam.plan import BitPlan, Unit
from mixqsam.prediction import Predictor
from mixqsam.progress import Progress, Silent
from mixqsam.prompts import Prompts
from mixqsam.sam.load import Sam
from mixqsam.times import UnitTimes

STAGE = "timing"
_TIMES = "unit-times"
# Increase it when times change their meaning, so that old ones in the cache are not used.
_VERSION = 2
# Seconds of the timed runs of one model, and the numbers of runs between which they are chosen.
_SECONDS, _FEWEST, _MOST = 4.0, 5, 40


@dataclass(frozen=True)
class _Ratios:
    """A model beside the reference, both timed in turns.

    Attributes:
        encoder, decoder: seconds of the model, divided by those of the reference.
        reference: seconds of the reference: an image, a prompt.
    """

    encoder: float
    decoder: float
    reference: tuple[float, float]

    @classmethod
    def from_json(cls, value: Any) -> "_Ratios":
        """Read what the cache stores."""
        first, second = value["reference"]
        return cls(float(value["encoder"]), float(value["decoder"]), (float(first), float(second)))


def describe_machine(backend: str) -> dict[str, str]:
    """What times depend on: processor, cores, threads and versions of the runtime."""
    library = "torch" if backend == TORCH else BACKENDS[backend].runtime
    found = {"cpu": machine()["cpu"], "cores": machine()["cores"], "threads": str(torch.get_num_threads())}
    for package in (library, "mixqsam"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def read_times(units: Sequence[Unit], backend: str, cache: Cache) -> UnitTimes | None:
    """Read the times of units that were measured on this machine, if any.

    Args:
        units: of the model; two models with the same units take the same time.
        backend: name of the backend.
        cache: where they are kept.
    """
    value = cache.get(_TIMES, _key(units, backend))
    if value is None:
        return None
    try:
        return UnitTimes.from_json(value, source="the cache")
    except ArtifactError:
        return None


def find_times(sam: Sam, backend: str, session: Session) -> UnitTimes:
    """Read the times of a model's units from the cache, or measure them; a stopped measurement resumes.

    Args:
        sam: the float model, or any model with this architecture.
        backend: name of the backend.
        session: cache and progress.

    Raises:
        InputError: the backend is unknown or not installed, or the model cannot be exported to it.
    """
    check_installed(backend)
    if sam.device.type != "cpu":
        raise InputError(f"Latencies are measured on the CPU; the model is on {sam.device}. Give --device cpu.")
    units = sam.costs().units
    found = read_times(units, backend, session.cache)
    if found is not None:
        return found
    key = _key(units, backend)
    with session.timed(STAGE), session.cache.lock(_TIMES, key):
        found = _measure(sam, units, backend, session)
        session.cache.put(_TIMES, key, found.to_json())
    return found


def add_times(analysis: Analysis, budget: Budget, cache: Cache) -> Analysis:
    """Add the times that a budget needs to an analysis, if they were measured on this machine."""
    if budget.latency is None:
        return analysis
    return analysis.with_times(read_times(analysis.units, budget.latency.backend, cache))


def count_models(sam: Sam) -> int:
    """How many models a measurement times."""
    return len(design_plans(sam.costs().units))


def _key(units: Sequence[Unit], backend: str) -> str:
    return digest(_VERSION, backend, describe_machine(backend), [asdict(unit) for unit in units])


def _measure(sam: Sam, units: Sequence[Unit], backend: str, session: Session) -> UnitTimes:
    plans = design_plans(units)
    with tempfile.TemporaryDirectory() as folder:
        ratios = _time_plans(TimedModels(sam, backend, Path(folder)), plans, session, key=_key(units, backend))
    # The machine's pace changes from minute to minute; the ratios change less.
    image, prompt = (statistics.median(one.reference[part] for one in ratios) for part in (0, 1))
    timed = [
        TimedPlan(plan, one.encoder * image, one.decoder * prompt) for plan, one in zip(plans, ratios, strict=True)
    ]
    fit = fit_times(units, timed)
    session.progress.note(
        f"Times of {len(units)} units with {backend}: each of {len(plans) - 1} timed models is predicted from the "
        f"others within {fit.error:.1%} on average."
    )
    return UnitTimes(
        backend,
        torch.get_num_threads(),
        describe_machine(backend),
        encoder=fit.fixed["encoder"],
        decoder=fit.fixed["decoder"],
        seconds=fit.seconds,
    )


def _time_plans(models: TimedModels, plans: Sequence[BitPlan], session: Session, *, key: str) -> list[_Ratios]:
    """Time each model beside the reference; the cache keeps each of them."""
    reference: Predictor | None = None
    found = []
    for plan in session.progress.track(plans, label="Timing models", total=len(plans)):
        name = digest(key, plan.to_json())
        stored = session.cache.get(STAGE, name)
        if stored is None:
            if reference is None:
                whole = uniform_plan(models.sam.costs().units, "integer")
                reference = models.load(whole)
            stored = asdict(_time_beside(reference, models.load(plan), models))
            session.cache.put(STAGE, name, stored)
        found.append(_Ratios.from_json(stored))
    return found


def _time_beside(reference: Predictor, predictor: Predictor, models: TimedModels) -> _Ratios:
    runs = time_in_turns({"reference": reference, "model": predictor}, models.picture, models.prompts)
    starts, owns = np.array(runs["reference"]), np.array(runs["model"])
    # Neighbouring runs share the machine's pace.
    encoder, decoder = np.median(owns / starts, axis=0)
    image, prompt = np.median(starts, axis=0)
    return _Ratios(float(encoder), float(decoder), (float(image), float(prompt)))


def time_in_turns(
    predictors: Mapping[str, Predictor], picture: Image.Image, prompts: Prompts, *, progress: Progress | None = None
) -> dict[str, list[tuple[float, float]]]:
    """Time models in turns, as often as fits into some seconds.

    Args:
        predictors: name → model.
        picture: image for the encoder.
        prompts: prompts of the decoder.
        progress: receives the progress of the runs; None for silence.

    Returns:
        Name → seconds of encoder and decoder, of each run.
    """
    first = time_runs(predictors, picture, prompts, runs=1, progress=Silent())
    once = sum(sum(seconds) for runs in first.values() for seconds in runs)
    runs = min(_MOST, max(_FEWEST, round(_SECONDS / once)))
    return time_runs(predictors, picture, prompts, runs=runs, progress=progress or Silent())
