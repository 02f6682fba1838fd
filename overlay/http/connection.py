"""One connection to the API: bounds on what uvicorn leaves to whoever can connect."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from overlay.limits import HTTP_CONNECTIONS_MAX, HTTP_STALL_S


class ApiConnection(H11Protocol):
    """uvicorn's, but that idle connections keep nobody out, nor who does not read what it asked
    for, and that nonsense is no bug.

    uvicorn waits for ever for a first request, and there are only so many places. So whoever can
    connect, without a key or a word, could take all of them. Here the connection that has been idle
    for longest gives way to a new one. uvicorn also waits for ever until a client takes more of its
    answer. Here that has an end, which cancels the answer.
    """

    _idle_since: float
    #: Ends the connection, while no more can be written.
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        if len(self.connections) >= HTTP_CONNECTIONS_MAX:
            others = [each for each in self.connections if isinstance(each, ApiConnection)]
            idle = [each for each in others if each._is_idle and each is not self]
            if idle:
                min(idle, key=lambda each: each._idle_since)._give_way()

    @property
    def _is_idle(self) -> bool:
        """No whole head of a request has come that is not answered yet."""
        return self.cycle is None or self.cycle.response_complete

    def _give_way(self) -> None:
        """End the connection."""
        self.connections.discard(self)
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(HTTP_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._read_on()
        super().connection_lost(exc)

    def _read_on(self) -> None:
        """The client takes its answer, or is gone."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def handle_events(self) -> None:
        try:
            super().handle_events()
        except h11.LocalProtocolError:
            # What came is no HTTP, and the answer has begun: uvicorn cannot refuse it any more.
            self.transport.abort()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()
