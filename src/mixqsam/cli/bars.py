"""Progress on a terminal: one bar for a whole job, and finished stages as lines. On a pipe: a line a minute."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from mixqsam.cli.console import err
from mixqsam.progress import JobClock, Stage, format_seconds

T = TypeVar("T")

# Seconds between two lines on a pipe; shorter stages have no line on a terminal.
_PULSE, _SHORT_STAGE = 60.0, 0.5


class ProgressBars:
    """Follows the lists of a job, or of a command without stages.

    Args:
        console: where it is shown.
        now: the time in seconds.
    """

    def __init__(self, console: Console = err, now: Callable[[], float] = time.monotonic) -> None:
        self._console, self._now = console, now
        self._live: Progress | None = None
        self._job: JobClock | None = None
        self._depth = 0
        self._counts: list[tuple[str, int, int]] = []
        self._last_line = now()

    def begin(self, stages: Sequence[Stage]) -> None:
        """Start a job; the bar shows all of its stages."""
        self.end()
        self._job, self._last_line = JobClock(stages, self._now), self._now()
        self._start()

    def enter(self, stage: str) -> None:
        """A stage begins."""
        if self._job is not None:
            self._job.enter(stage)

    def leave(self, stage: str, *, is_finished: bool = True) -> None:
        """A stage ends, and stays as a line."""
        if self._job is None:
            return
        is_outermost = self._job.stage == stage
        seconds = self._job.leave(stage, is_finished=is_finished)
        if is_outermost and seconds >= (_SHORT_STAGE if self._console.is_terminal else _PULSE):
            self._print(f"{stage}: {format_seconds(seconds)}")

    def end(self) -> None:
        """The job ends, and its bar goes."""
        if self._job is not None:
            self._job = None
            self._stop()

    def track(
        self, items: Iterable[T], *, label: str, total: int, steps: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """Yield `items`, and show how many are done and how long the others take."""
        is_outermost = not self._counts
        if is_outermost and self._job is None:
            self._last_line = self._now()
            self._start()
        started = self._now()
        place = len(self._counts)
        self._counts.append((label, 0, total))
        try:
            for item in items:
                yield item
                _, done, _ = self._counts[place]
                self._counts[place] = (label, done + (steps(item) if steps else 1), total)
                self._advance(place, started)
            if is_outermost and self._job is not None:
                self._job.finish_list()
        finally:
            del self._counts[place:]
            if is_outermost and self._job is None:
                self._stop()

    def note(self, message: str) -> None:
        """Print a note."""
        err.print(escape(message), style="yellow" if "Skipped" in message else "dim", highlight=False)

    def describe(self) -> str:
        """What is being done: the stage, and the innermost list with its count."""
        stage = self._job.stage if self._job is not None else ""
        if not self._counts:
            return stage
        label, done, total = self._counts[-1]
        return f"{label} {done}/{total}" if total > 1 else label

    def _advance(self, place: int, started: float) -> None:
        _, done, total = self._counts[place]
        if place == 0 and self._job is not None:
            self._job.count(min(1.0, done / max(1, total)))
        if place == 0 and self._job is None and self._live is not None:
            self._live.update(self._live.task_ids[0], completed=done, total=total)
        if self._console.is_terminal or self._now() - self._last_line < _PULSE:
            return
        self._last_line = self._now()
        if self._job is not None:
            left = f"about {format_seconds(self._job.left)} left for the whole job"
        else:
            _, first, whole = self._counts[0]
            elapsed = self._now() - started
            left = f"about {format_seconds(elapsed * (whole - first) / max(1, first))} left" if first else "working"
        self._print(f"{self.describe()}; {left}")

    def _print(self, text: str) -> None:
        console = self._console if self._live is None else self._live.console
        console.print(escape(text), style="dim", highlight=False)

    def _start(self) -> None:
        # Some versions of rich end a bar on a pipe with an empty line, even one that is switched off.
        if not self._console.is_terminal:
            return
        job = self._job
        columns: list[ProgressColumn] = [_Description(self), BarColumn()]
        columns += [TaskProgressColumn(), TimeElapsedColumn(), _TimeLeft(job)]
        self._live = Progress(*columns, console=self._console, transient=True)
        self._live.add_task("", total=None if job is None else 1.0)
        self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class _Description(TextColumn):
    """The present stage and list."""

    def __init__(self, bars: ProgressBars) -> None:
        super().__init__("")
        self._bars = bars

    def render(self, task: Task) -> Text:
        del task
        return Text(f"{self._bars.describe():34}")


class _TimeLeft(ProgressColumn):
    """Time left for the whole job, or for the list of a command without stages."""

    def __init__(self, job: JobClock | None) -> None:
        super().__init__()
        self._job = job

    def render(self, task: Task) -> Text:
        if self._job is not None:
            task.completed = self._job.share
            return Text(f"{format_seconds(self._job.left)} left", style="progress.remaining")
        left = task.time_remaining
        return Text("" if left is None else f"{format_seconds(left)} left", style="progress.remaining")
