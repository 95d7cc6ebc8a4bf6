"""How long work says where it is, without knowing who listens."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Something that is told about steps of long work."""

    def track(
        self, items: Iterable[T], *, label: str, total: int, steps: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """Yield `items`, counting towards `total` under `label`; an item is `steps(item)` steps, or one."""
        ...

    def note(self, message: str) -> None:
        """Tell the user one thing worth knowing."""
        ...


class Silent:
    """Progress that nobody watches; notes are kept for whoever asks."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def track(
        self, items: Iterable[T], *, label: str, total: int, steps: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """Yield `items` as they are."""
        del label, total, steps
        yield from items

    def note(self, message: str) -> None:
        """Keep the message."""
        self.notes.append(message)
