"""How work is divided among the processes of a group, and put together in an order that does not depend on them."""

import os
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from mixqsam.errors import ParallelError

T = TypeVar("T")


class Engine(Protocol):
    """A group of processes that run the same program; this one is `rank` of `world`."""

    @property
    def rank(self) -> int:
        """This process's number; 0 is the one that prints and writes."""
        ...

    @property
    def world(self) -> int:
        """How many processes there are."""
        ...

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks, on every process; all wait for all.

        Raises:
            ParallelError: a process was lost.
        """
        ...


class Alone:
    """A group of one."""

    rank = 0
    world = 1

    def gather(self, value: T) -> list[T]:
        """The value alone."""
        return [value]


def share(engine: Engine, items: Sequence[T]) -> list[tuple[int, T]]:
    """This process's items, with their places in the whole: every world-th one."""
    return list(enumerate(items))[engine.rank :: engine.world]


def combine(engine: Engine, own: Mapping[int, T], *, count: int) -> list[T]:
    """All items, in their order, from what each process made of its share.

    Raises:
        ParallelError: an item is missing, or a process was lost.
    """
    found: dict[int, T] = {}
    for part in engine.gather(dict(own)):
        found.update(part)
    missing = set(range(count)) - found.keys()
    if missing:
        raise ParallelError(f"No process delivered item {min(missing)} of {count}; run the same command again.")
    return [found[index] for index in range(count)]


def start(*, processes: int | None, device: str, environment: Mapping[str, str] | None = None) -> Engine:
    """The group that this process was launched in.

    Args:
        processes: how many there have to be; None for as many as there are.
        device: `cpu`, or `cuda` for one GPU each.
        environment: where the launcher says how many; None for the process's own.

    Raises:
        ParallelError: there are not as many as asked for, or `accelerate` is not installed.
    """
    known = os.environ if environment is None else environment
    launched = int(known.get("WORLD_SIZE", "1"))
    if processes is not None and processes != launched:
        raise ParallelError(
            f"{processes} processes were asked for, but {launched} were started. Launch them with "
            f"`python -m torch.distributed.run --standalone --nproc_per_node {processes} -m mixqsam …` "
            "(`accelerate launch --cpu` starts a single one without a word)."
        )
    if launched == 1:
        return Alone()
    from mixqsam.parallel.accelerated import Accelerated  # noqa: PLC0415  (an extra; only groups need it)

    return Accelerated(device)
