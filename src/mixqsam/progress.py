"""Progress of long work, reported without knowing who displays it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


class Progress(Protocol):
    """Receives the steps of long work."""

    def track(
        self, items: Iterable[T], *, label: str, total: int, steps: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """Yield `items` and count them up to `total` under `label`; an item counts `steps(item)` steps, or one."""
        ...

    def note(self, message: str) -> None:
        """Report one fact to the user."""
        ...


@dataclass(frozen=True)
class Stage:
    """A stage of a job, and the time that it is expected to take.

    Attributes:
        name: as `Session.timed` names it.
        seconds: expected time of all its parts.
        tracks: number of lists that one part counts through `Progress.track`; 0 if it counts none.
        parts: how often the job enters the stage.
        split: expected seconds of each part, in their order; empty where all take the same time.
    """

    name: str
    seconds: float
    tracks: int = 1
    parts: int = 1
    split: tuple[float, ...] = ()

    @property
    def each(self) -> tuple[float, ...]:
        """Expected seconds of each part."""
        return self.split or (self.seconds / max(1, self.parts),) * self.parts


@runtime_checkable
class JobProgress(Progress, Protocol):
    """Progress that also follows a whole job of several stages."""

    def begin(self, stages: Sequence[Stage]) -> None:
        """Start a job, of which these stages remain."""
        ...

    def enter(self, stage: str) -> None:
        """A stage begins; inside of another stage it is a part of that one."""
        ...

    def leave(self, stage: str, *, is_finished: bool = True) -> None:
        """A stage ends; one that is not finished is entered again later."""
        ...

    def end(self) -> None:
        """The job ends; nothing happens if none has begun."""
        ...


@contextmanager
def following(progress: Progress) -> Iterator[None]:
    """Within this block a job may begin; it ends with the block."""
    try:
        yield
    finally:
        if isinstance(progress, JobProgress):
            progress.end()


def begin_job(progress: Progress, stages: Sequence[Stage]) -> None:
    """Start a job, if the progress follows jobs."""
    if isinstance(progress, JobProgress):
        progress.begin(stages)


class JobClock:
    """Estimates the time that a job still takes, from the expected and the actual times of its stages.

    Args:
        stages: in the order of the job.
        now: the time in seconds.
    """

    # A stage that takes less than this share of its expected time came from the cache, and says nothing of the pace.
    _CACHED = 0.05

    def __init__(self, stages: Sequence[Stage], now: Callable[[], float] = time.monotonic) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._finished = dict.fromkeys(self._stages, 0)
        self._now, self._begun = now, now()
        self._open: list[str] = []
        self._started = 0.0
        self._tracks, self._fraction = 0, 0.0
        self._expected, self._actual = 0.0, 0.0

    @property
    def stage(self) -> str:
        """Name of the outermost open stage; empty between stages."""
        return self._open[0] if self._open else ""

    def enter(self, name: str) -> None:
        """A stage begins."""
        self._open.append(name)
        if len(self._open) == 1:
            self._started, self._tracks, self._fraction = self._now(), 0, 0.0

    def leave(self, name: str, *, is_finished: bool = True) -> float:
        """A stage ends; return its seconds. One that is not finished says nothing of the pace."""
        self._open.remove(name)
        seconds = self._now() - self._started
        if not self._open and name in self._stages and is_finished:
            expected = self._part(name)
            self._finished[name] += 1
            if seconds > self._CACHED * expected > 0:
                self._expected, self._actual = self._expected + expected, self._actual + seconds
        return seconds

    def count(self, fraction: float) -> None:
        """The stage's present list has come so far, from 0 to 1."""
        self._fraction = fraction

    def finish_list(self) -> None:
        """The stage's present list is finished."""
        self._tracks, self._fraction = self._tracks + 1, 0.0

    @property
    def left(self) -> float:
        """Expected seconds to the end of the job."""
        pace = self._actual / self._expected if self._expected else 1.0
        left = self._left_of_stage(pace)
        for name, stage in self._stages.items():
            left += pace * sum(stage.each[self._finished[name] + (name == self.stage) :])
        return left

    @property
    def share(self) -> float:
        """Share of the job's time that has passed, from 0 to 1."""
        elapsed = self._now() - self._begun
        return elapsed / max(elapsed + self.left, 1e-9)

    def _part(self, name: str) -> float:
        """Expected seconds of the open part of a stage, or of its next one."""
        each = self._stages[name].each
        return each[min(self._finished[name], len(each) - 1)] if each else 0.0

    def _left_of_stage(self, pace: float) -> float:
        """Expected seconds to the end of the open stage: from the steps counted so far, or else from the time."""
        if self.stage not in self._stages:
            return 0.0
        stage, elapsed = self._stages[self.stage], self._now() - self._started
        by_time = max(0.0, pace * self._part(self.stage) - elapsed)
        done = min(1.0, (self._tracks + self._fraction) / stage.tracks) if stage.tracks else 0.0
        if not done:
            return by_time
        by_steps = elapsed * (1 - done) / done
        # The first steps say little: they are believed by half of the stage.
        trust = min(1.0, 2 * done)
        return trust * by_steps + (1 - trust) * by_time


def format_seconds(seconds: float) -> str:
    """Format a time for people: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Silent:
    """Progress without a display; notes are stored in `notes`."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def track(
        self, items: Iterable[T], *, label: str, total: int, steps: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """Yield `items` unchanged."""
        del label, total, steps
        yield from items

    def note(self, message: str) -> None:
        """Store the message."""
        self.notes.append(message)
