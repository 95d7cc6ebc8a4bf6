"""Models of other budgets, made in the background while the page goes on."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from starlette.exceptions import HTTPException

from mixqsam.errors import MixqsamError
from mixqsam.pipeline.trial import TrialMaker
from mixqsam.plan import BitPlan
from mixqsam.prediction import Predictor
from mixqsam.serving.recent import LruCache
from mixqsam.serving.requests import WantedBudget
from mixqsam.serving.worker import Worker
from mixqsam.serving.workspace import Workspace

T = TypeVar("T")
# Trials that are remembered; the models in memory are fewer.
_REMEMBERED = 32


@dataclass
class Trial:
    """A model that is being made, or was.

    Attributes:
        number: its number.
        step: what happens now, for people.
        model: name of the finished model.
        error: why it could not be made.
    """

    number: int
    step: str = "Waiting for the server"
    model: str | None = None
    error: str | None = None


class _Steps:
    """Progress that a trial shows, and that ends the work when the server stops."""

    def __init__(self, trial: Trial, is_stopped: threading.Event) -> None:
        self._trial, self._is_stopped = trial, is_stopped

    def track(
        self, items: Iterable[T], *, label: str, total: int, steps: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """Show which item is worked on."""
        del steps
        for index, item in enumerate(items, start=1):
            if self._is_stopped.is_set():
                raise MixqsamError("The server was stopped.")
            self._trial.step = f"{label} {index}/{total}"
            yield item
        self._trial.step = "Rounding to nearest"

    def note(self, message: str) -> None:
        """A visitor needs no notes."""


class Trials:
    """Makes models one after the other.

    Args:
        workspace: receives the models.
        solver: chooses bits.
        predicting: the worker whose thread uses the workspace's models.
    """

    def __init__(self, workspace: Workspace, *, solver: Worker, predicting: Worker) -> None:
        self._workspace, self._solver, self._predicting = workspace, solver, predicting
        self._maker = Worker(workspace.limits.waiting)
        self._makers: LruCache[TrialMaker] = LruCache(1)
        self._trials: LruCache[Trial] = LruCache(_REMEMBERED)
        self._same: LruCache[Trial] = LruCache(_REMEMBERED)
        self._running: set[asyncio.Task[None]] = set()
        self._is_stopped = threading.Event()
        self._count = 0

    def stop(self) -> None:
        """End the running work at its next step, and forget what waits."""
        self._is_stopped.set()
        self._maker.close()

    async def start(self, base: str, budget: WantedBudget) -> Trial:
        """Start to make the model of a budget; bits that were chosen before give the same trial.

        Raises:
            MixqsamError: the model has no analysis, the budget cannot be met, or calibration images are missing.
            HTTPException: 503, too many are waiting.
        """
        directory = self._workspace.directory(base)

        def choose() -> tuple[BitPlan, float, float]:
            TrialMaker(directory)
            explorer = self._workspace.explorer(base)
            allocation = explorer.choose(size=budget.size, bitops=budget.bitops, tied=budget.tied)
            return allocation.plan, allocation.size, allocation.bitops

        plan, size, bitops = await self._solver.run(choose)
        key = (base, repr(plan))
        known = self._same.get(key)
        if known is not None and self._is_usable(known):
            return known
        self._maker.check_room()
        self._count += 1
        trial = Trial(self._count)
        self._trials.put(trial.number, trial)
        self._same.put(key, trial)
        task = asyncio.create_task(self._make(trial, base, directory, plan, costs={"size": size, "bitops": bitops}))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return trial

    def describe(self, number: int) -> dict[str, Any]:
        """Describe a trial: its step, its error, or its model and all models.

        Raises:
            HTTPException: 404, there is no such trial.
        """
        trial = self._trials.get(number)
        if trial is None:
            raise HTTPException(404, "This model is not being made; press “Try it” again.")
        return {**vars(trial), "models": self._workspace.models() if trial.model else None}

    def _is_usable(self, trial: Trial) -> bool:
        """Whether a trial goes on, or its model is still served."""
        names = {str(one["name"]) for one in self._workspace.models()}
        return trial.error is None and (trial.model is None or trial.model in names)

    async def _make(self, trial: Trial, base: str, directory: Path, plan: BitPlan, *, costs: dict[str, float]) -> None:
        try:
            predictor = await self._maker.run(lambda: self._run(trial, directory, plan))
            trial.model = await self._predicting.run(
                lambda: self._workspace.add_tried(base, predictor, size=costs["size"], bitops=costs["bitops"])
            )
        except HTTPException as error:
            trial.error = str(error.detail)
        except MixqsamError as error:
            trial.error = str(error)
        except Exception as error:
            trial.error = f"Internal error ({type(error).__name__}); please report it."

    def _run(self, trial: Trial, directory: Path, plan: BitPlan) -> Predictor:
        """The work of the maker's thread."""
        trial.step = "Loading the float model"
        maker = self._makers.get(directory)
        if maker is None:
            maker = TrialMaker(directory)
            self._makers.put(directory, maker)
        return maker.make(plan, _Steps(trial, self._is_stopped))
