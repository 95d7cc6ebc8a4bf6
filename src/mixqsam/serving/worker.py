"""Threads for the page's work, each with a bounded queue."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.exceptions import HTTPException

T = TypeVar("T")


class Worker:
    """One thread for one kind of work, with a bounded queue."""

    def __init__(self, waiting: int) -> None:
        self._waiting, self._queued = waiting, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mixqsam")

    def check_room(self) -> None:
        """Check that the queue takes one more.

        Raises:
            HTTPException: 503, the queue is full.
        """
        if self._queued > self._waiting:
            raise HTTPException(503, "The server is busy; try again in a few seconds.", {"retry-after": "3"})

    async def run(self, work: Callable[[], T]) -> T:
        """Queue the work and return its result.

        Raises:
            HTTPException: 503, the queue is full.
        """
        self.check_room()
        self._queued += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._queued -= 1

    def close(self) -> None:
        """Finish the running work, and cancel the queue."""
        self._thread.shutdown(wait=False, cancel_futures=True)
