"""One connection to the API: bounds on what uvicorn leaves to whoever can connect."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from overlay.limits import (
    HTTP_BODY_BYTES_MAX,
    HTTP_CONNECTIONS_MAX,
    HTTP_PIECES_MAX,
    HTTP_STALL_S,
)


class _Reader(h11.Connection):
    """h11's, but that a body in crumbs, or one that goes on long after its refusal, is no HTTP.

    It is read even where nobody wants it: a key is asked for before, and the answer is out.
    """

    _pieces = _bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > HTTP_PIECES_MAX + (self._bytes >> 10):
                raise h11.RemoteProtocolError("a body in too many pieces")
            if self._bytes > 2 * HTTP_BODY_BYTES_MAX:
                raise h11.RemoteProtocolError("a body that was refused goes on")
        return event


class ApiConnection(H11Protocol):
    """uvicorn's, but that idle connections keep nobody out, nor who does not read what it asked
    for, and that nonsense is no bug.

    uvicorn waits for ever for a first request, and there are only so many places. So whoever can
    connect, without a key or a word, could take all of them. Here the connection that has been idle
    for longest gives way to a new one. uvicorn also waits for ever until a client takes more of its
    answer. Here that has an end, which cancels the answer.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _Reader(h11.SERVER)
        self._idle_since = self.loop.time()
        #: Ends the connection, while no more can be written.
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
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
