"""A TCP proxy that makes loopback as slow as a network, where the kernel offers nothing for it.

Whoever connects talks to the target; each byte arrives after the delay, and some jitter, in order.
Opening a connection takes no time, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

_READ_BYTES: Final = 1 << 16
#: Reads under way in one direction; then the sender has to wait, as where a network's queues fill.
_UNDER_WAY_MAX: Final = 1024


class Line:
    """When what is sent over one direction of a connection arrives. Times are in seconds."""

    def __init__(self, delay_s: float, jitter_s: float, rng: random.Random) -> None:
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._rng = rng
        self._latest = 0.0

    def arrival(self, now: float) -> float:
        """Of bytes sent ``now``: after the delay and up to the jitter, behind all sent earlier."""
        arrival = now + self._delay_s + self._rng.uniform(0.0, self._jitter_s)
        self._latest = max(self._latest, arrival)
        return self._latest


class DelayProxy:
    """Listens on a free loopback port; as long as it has no ``target``, it is nobody's."""

    def __init__(self, server: asyncio.Server, line: Callable[[], Line]) -> None:
        """Use `start`."""
        self._server = server
        self._line = line
        self._open: set[asyncio.Task[None]] = set()
        #: Host and port where connections lead to.
        self.target: tuple[str, int] | None = None
        #: Connections taken so far.
        self.connections = 0

    @classmethod
    async def start(cls, delay_s: float, jitter_s: float, rng: random.Random) -> DelayProxy:
        """``delay_s`` is one way: a round trip takes twice as long, and up to twice the jitter."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await proxy._accept(reader, writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        proxy = cls(server, lambda: Line(delay_s, jitter_s, rng))
        return proxy

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and break all connections."""
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            pass  # by `close`; asyncio's server takes a cancelled handler for an error
        finally:
            writer.close()
            self._open.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry both directions, until both have ended or one is broken."""
        if self.target is None:
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_carry(reader, far_writer, self._line()))
                both.create_task(_carry(far_reader, writer, self._line()))
        except* OSError:
            pass
        finally:
            far_writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line) -> None:
    """Carry one direction up to its end, which takes as long as all else. Raises OSError."""
    loop = asyncio.get_running_loop()
    #: When it arrives, and what: no bytes are the end, None is a connection that broke.
    under_way: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_UNDER_WAY_MAX)

    async def depart() -> None:
        data: bytes | None = None
        while data != b"":
            try:
                data = await reader.read(_READ_BYTES)
            except OSError:
                data = b""
                await under_way.put((line.arrival(loop.time()), None))
            else:
                await under_way.put((line.arrival(loop.time()), data))

    departing = asyncio.create_task(depart())
    try:
        while True:
            arrival, data = await under_way.get()
            await asyncio.sleep(arrival - loop.time())
            if data is None:
                raise ConnectionResetError("the other side broke off")
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
    finally:
        departing.cancel()
