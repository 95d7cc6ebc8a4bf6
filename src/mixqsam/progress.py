"""Progress of long work, reported without knowing who displays it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

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
