"""A cache of recent values."""

from collections import OrderedDict
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LruCache(Generic[T]):
    """A cache of the most recently used values."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._values: OrderedDict[Any, T] = OrderedDict()

    def get(self, key: Any) -> T | None:
        """The value, or None if it was removed."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Any, value: T) -> None:
        """Store a value; the least recently used one may be removed."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._count:
            self._values.popitem(last=False)
