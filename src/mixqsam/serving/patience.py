"""Limits on how long a client may take: to send the head of a request, and to take in an answer."""

import asyncio
from typing import Any

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


class Impatient(H11Protocol):
    """Uvicorn's HTTP, which hangs up on whoever has not finished a request's head in time.

    Uvicorn itself waits without end for it, so that a few hundred silent clients would take all places.
    """

    seconds = 15.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Stop waiting once the head is there."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._deadline is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self.seconds, self._hang_up)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _hang_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class Timely:
    """An application whose answers have to be taken in: each part within so many seconds.

    Args:
        app: the application.
        seconds: for each part.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run it; a client that takes too long is dropped, and nobody else hears of it."""

        async def timely(message: Message) -> None:
            async with asyncio.timeout(self._seconds):
                await send(message)

        await self._app(scope, receive, timely)
