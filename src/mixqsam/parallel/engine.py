"""Divide work among the processes of a group, and combine results in an order that does not depend on them."""

import os
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from mixqsam.errors import ParallelError

T = TypeVar("T")


class Engine(Protocol):
    """A group of processes that run the same program; this process is `rank` of `world`."""

    @property
    def rank(self) -> int:
        """Number of this process; process 0 prints and writes."""
        ...

    @property
    def world(self) -> int:
        """Number of processes."""
        ...

    def gather(self, value: T) -> list[T]:
        """Collect every process's value in the order of ranks; every process waits for all others.

        Raises:
            ParallelError: a process was lost.
        """
        ...


class SingleProcess:
    """A group of one."""

    rank = 0
    world = 1

    def gather(self, value: T) -> list[T]:
        """Return a list of the value."""
        return [value]


def take_share(engine: Engine, items: Sequence[T]) -> list[tuple[int, T]]:
    """Take this process's items with their indices: every `world`-th one."""
    return list(enumerate(items))[engine.rank :: engine.world]


def combine(engine: Engine, share: Mapping[int, T], *, count: int) -> list[T]:
    """Combine the shares of all processes into one list, in the order of the items.

    Raises:
        ParallelError: an item is missing, or a process was lost.
    """
    items: dict[int, T] = {}
    for part in engine.gather(dict(share)):
        items.update(part)
    missing = set(range(count)) - items.keys()
    if missing:
        raise ParallelError(f"No process delivered item {min(missing)} of {count}; run the same command again.")
    return [items[index] for index in range(count)]


def join_group(*, processes: int | None, device: str, environment: Mapping[str, str] | None = None) -> Engine:
    """Join the group that this process was launched in.

    Args:
        processes: expected number of processes; None for any.
        device: `cpu`, or `cuda` for one GPU each.
        environment: variables of the launcher; None for this process's environment.

    Raises:
        ParallelError: the number of processes is another one, or `accelerate` is not installed.
    """
    variables = os.environ if environment is None else environment
    world = int(variables.get("WORLD_SIZE", "1"))
    if processes is not None and processes != world:
        raise ParallelError(
            f"{processes} processes were requested, but {world} were started. Launch them with "
            f"`python -m torch.distributed.run --standalone --nproc_per_node {processes} -m mixqsam …` "
            "(`accelerate launch --cpu` starts only one, without a message)."
        )
    if world == 1:
        return SingleProcess()
    from mixqsam.parallel.accelerated import AccelerateGroup  # noqa: PLC0415  (an extra; only groups need it)

    return AccelerateGroup(device)
