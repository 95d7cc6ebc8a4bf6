"""Sessions of jobs: cache, progress, device and group of processes; and sources of images."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mixqsam.files import Cache, default_cache
from mixqsam.parallel.engine import Engine, SingleProcess, join_group
from mixqsam.progress import JobProgress, Progress, Silent

if TYPE_CHECKING:
    from mixqsam.data.samples import Sample
    from mixqsam.weight_grids import GridLibrary


class Source(Protocol):
    """A source of samples."""

    @property
    def annotations(self) -> Path | None:
        """The COCO file of the annotations for AP, if any."""
        ...

    def samples(self, *, count: int | None, progress: Progress, seed: int | None = None) -> "list[Sample]":
        """Return all samples, or at least `count`: the first, or with a seed a random sample of all folders."""
        ...


def _grids() -> "GridLibrary":
    # This import loads torch; modules of options must not load it.
    from mixqsam.weight_grids import GridLibrary  # noqa: PLC0415

    return GridLibrary()


@dataclass
class Session:
    """Cache, progress, device and times of one job.

    Attributes:
        cache: cache of the finished stages.
        progress: receives the progress.
        device: device of the models.
        engine: group of processes of this process.
        grids: grids of the weights, each searched once.
        seconds: stage → wall time; a stage from the cache takes almost no time.
        command: the command as the user gave it, for the record.
        open_stages: stages that have begun and not ended, the outermost first.
    """

    cache: Cache = field(default_factory=lambda: Cache(default_cache()))
    progress: Progress = field(default_factory=Silent)
    device: str = "cpu"
    engine: Engine = field(default_factory=SingleProcess)
    grids: "GridLibrary" = field(default_factory=_grids)
    seconds: dict[str, float] = field(default_factory=dict)
    command: str = ""
    open_stages: list[str] = field(default_factory=list)

    def timed(self, stage: str) -> "_Timer":
        """Return a context that adds its wall time to a stage; inside of another stage it is a part of that one."""
        return _Timer(self, stage)


def open_session(
    *,
    cache: Path | str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    processes: int | None = None,
    is_group: bool = False,
    command: str = "",
) -> Session:
    """Open the session of a job.

    Args:
        cache: folder of the cache; None for the user's.
        device: device of the computation.
        progress: receives the progress; None for silence.
        processes: required number of processes; None for any.
        is_group: whether this process may be one of several that torchrun launched.
        command: the command as the user gave it.

    Raises:
        InputError: the device cannot be used here.
        ParallelError: the number of processes is not the required one.
    """
    from mixqsam.sam.load import check_device  # noqa: PLC0415  (loads torch)

    check_device(device)
    root = Path(cache) if cache else default_cache()
    Cache(root).sweep()
    engine: Engine = join_group(processes=processes, device=device) if is_group else SingleProcess()
    place = getattr(engine, "device", device) if device == "cuda" else device
    return Session(Cache(root, wait_for_locks=engine.world > 1), progress or Silent(), place, engine, command=command)


class _Timer:
    def __init__(self, session: Session, stage: str) -> None:
        self._session, self._stage = session, stage
        self._job = session.progress if isinstance(session.progress, JobProgress) else None

    def __enter__(self) -> None:
        self._session.open_stages.append(self._stage)
        self._started = time.monotonic()
        if self._job is not None:
            self._job.enter(self._stage)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._job is not None:
            self._job.leave(self._stage, is_finished=kind is None)
        self._session.open_stages.remove(self._stage)
        if not self._session.open_stages:
            seconds = self._session.seconds
            seconds[self._stage] = seconds.get(self._stage, 0.0) + time.monotonic() - self._started
