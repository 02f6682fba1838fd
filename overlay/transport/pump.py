"""Messages in and out of a ZeroMQ socket, on an asyncio loop, at little more than its own cost.

`zmq.asyncio` makes a future for each message, and asks the socket for its state several times.

A socket's file descriptor is edge-triggered: it tells once that something came, and to send may use
that up. So whoever has sent looks whether there is something to read, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import zmq

log = logging.getLogger(__name__)

#: Plain numbers: to compute with pyzmq's flags takes longer than to read the socket's state.
_READABLE: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_NOT_LAST: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
#: When messages were read for so long, everything else on the loop gets a turn. A request takes
#: several turns, and in each waits for whatever floods: so long, and not for a number of messages,
#: which take longer the slower the machine is. Shorter turns leave less time to read.
TURN_S: Final = 0.001


class Pump:
    """``arrived`` gets the frames of each message that comes, until `close`."""

    def __init__(self, link: zmq.Socket[bytes], arrived: Callable[[list[zmq.Frame]], None]) -> None:
        self._link = link
        self._arrived = arrived
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(link.getsockopt(zmq.FD))
        self._looking: asyncio.Handle | None = None
        self._loop.add_reader(self._descriptor, self._read)
        self.look()

    def look(self) -> None:
        """Read what has come, soon."""
        if self._looking is None:
            self._looking = self._loop.call_soon(self._read)

    def offer(self, frames: list[bytes]) -> zmq.ZMQError | None:
        """Queue a message without waiting; None, or why that cannot be (zmq.Again: queue full)."""
        error: zmq.ZMQError | None = None
        try:
            for frame in frames[:-1]:
                self._link.send(frame, _NOT_LAST)
            self._link.send(frames[-1], _NOBLOCK)
        except zmq.ZMQError as failure:
            error = failure
        # Also what could not be sent may have used up the news that something came.
        if self._readable():
            self.look()
        return error

    def drain(self) -> None:
        """The connection is over: read what came before its end."""
        while not self._closed and self._read_one():
            pass

    def close(self) -> None:
        """Call it before the socket is closed. Idempotent."""
        self._loop.remove_reader(self._descriptor)
        if self._looking is not None:
            self._looking.cancel()
        self._closed = True

    def _read(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        until = time.monotonic() + TURN_S
        while not self._closed and self._read_one():
            if time.monotonic() >= until:
                self.look()
                return

    def _read_one(self) -> bool:
        """Whether there is more."""
        try:
            # Frames tell of their origin, and whether more follow; else that would be one more
            # question to the socket.
            frames = [self._link.recv(_NOBLOCK, copy=False)]
            while frames[-1].more:
                frames.append(self._link.recv(_NOBLOCK, copy=False))
        except zmq.ZMQError:
            return False
        try:
            self._arrived(frames)
        except Exception:
            # Our bug: what else has come, from others too, would lie there until there is news.
            log.exception("what came could not be handled")
        return self._readable()

    def _readable(self) -> bool:
        # An exception for each message that is not there would cost more than this, and so would
        # to ask for the socket's state: pyzmq makes an enumeration's member for each question.
        return not self._link.closed and bool(zmq.zmq_poll([(self._link, _READABLE)], 0))
