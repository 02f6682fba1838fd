"""A link with its socket, and the life of a dialled connection from connect to end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

import zmq

from overlay.errors import HearthError, Unreachable
from overlay.identity.branches import Lineage
from overlay.identity.peer_id import PeerId
from overlay.limits import HANDSHAKE_S, MESSAGE_BYTES_MAX, PING_INTERVAL_S
from overlay.transport.dialling import Ending
from overlay.transport.link import SILENCE_S, Down, Link, LinkEvent
from overlay.transport.pump import Pump
from overlay.transport.sockets import LINGER_MS, Connection, Monitor, Sockets

#: A peer that we say goodbye to may take this long to answer.
FAREWELL_S: Final = 0.5

_BROKE: Final = "the connection broke"


class Exchange(Protocol):
    """Where connections end up: whoever carries out what their links say."""

    def opened(self, line: Line) -> None:
        """A new connection; its link has not spoken yet."""

    def carry_out(self, line: Line, events: list[LinkEvent]) -> None: ...

    def receive(self, line: Line, data: bytes) -> None: ...


class Line:
    """A link and the way to send on it.

    ``over`` holds how the link ended; ``gone`` is done when the connection is of no use any more.
    """

    def __init__(
        self,
        link: Link,
        send: Callable[[bytes], BaseException | None],
        exchange: Exchange,
    ) -> None:
        self.link = link
        #: What it goes over, once that is known; None: not over one of its own.
        self.connection: Connection | None = None
        #: Bytes that it had brought when the peer seemed silent, at first and the last time.
        self._received: tuple[int, int] | None = None
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[Down] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._send = send
        self._exchange = exchange
        exchange.opened(self)

    def transmit(self, data: bytes) -> bool:
        """Queue a message; False if the queue for the peer is full or the peer is gone."""
        return self._sent(data, self._send(data))

    def say(self, data: bytes) -> bool:
        """The same with what the link says itself: a ping, a goodbye."""
        return self.transmit(data)

    def _sent(self, data: bytes, error: BaseException | None) -> bool:
        if error is None:
            self.link.sent(len(data))
            return True
        if not isinstance(error, zmq.Again):
            # Whoever sends is in the middle of something: tell of the end afterwards.
            asyncio.get_running_loop().call_soon(self.close, _BROKE)
        return False

    def tick(self, now: float, today: float) -> list[LinkEvent]:
        """As `Link.tick`."""
        return self.link.tick(now, today, arriving=self._arriving(now))

    def _arriving(self, now: float) -> bool:
        """Whether a message is on its way here: a long prompt takes its time on a slow uplink, and
        nothing that is said after it can overtake it."""
        if self.connection is None or self.link.silence_s(now) <= SILENCE_S - PING_INTERVAL_S:
            self._received = None
            return False
        received = self.connection.received_bytes()
        if received is None:
            return False
        first, before = self._received or (received, received)
        self._received = first, received
        # Of one message; libzmq keeps the parts of one that has no end.
        return before < received <= first + MESSAGE_BYTES_MAX

    def close(self, reason: str) -> None:
        """The connection is gone, or of no use any more."""
        self.carry_out(self.link.close(reason))

    def end(self, down: Down) -> None:
        """The link is down; a peer that we left has a moment to answer. Call it once."""
        if down.error is not None:
            # Its traceback keeps the locals of its frames, the message that it is about among them.
            down.error.__traceback__ = down.error.__context__ = None
        self.over.set_result(down)
        if self.link.leaving:
            asyncio.get_running_loop().call_later(FAREWELL_S, self.let_go)
        else:
            self.let_go()

    def let_go(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)

    def carry_out(self, events: list[LinkEvent]) -> None:
        self._exchange.carry_out(self, events)


def heaviest(taken: Mapping[Line, int]) -> Line:
    """The line that takes most, of the branch that does, by what each takes.

    Each of a crowd that one member let in may take a little less than who has, or is sent, a long
    prompt.
    """
    branches: Counter[Lineage] = Counter()
    for line, size in taken.items():
        branches[line.link.lineage[:1]] += size
    return max(taken, key=lambda line: (branches[line.link.lineage[:1]], taken[line]))


def message_of(frames: list[zmq.Frame]) -> bytes:
    """A message is one frame; anything else is none, and so are empty bytes."""
    return frames[0].bytes if len(frames) == 1 else b""


async def converse(
    sockets: Sockets,
    turn: AbstractAsyncContextManager[None],
    peer: PeerId,
    endpoint: str,
    new_link: Callable[[], Link | None],
    exchange: Exchange,
) -> Ending:
    """Dial an endpoint, in its turn, and serve the connection to its end.

    ``new_link`` is asked once it stands; None: it is of no use any more.
    """
    async with turn:
        try:
            dealer, monitor = _open(sockets, peer)
        except HearthError as error:
            return Ending(str(error), was_up=False)
        failure: str | None = "given up"
        try:
            failure = await _connect(dealer, monitor, endpoint)
        finally:
            if failure is not None:
                _close(dealer, monitor)
    if failure is not None:
        return Ending(failure, was_up=False)
    try:
        link = new_link()
        if link is None:
            return Ending("the peer has dialled meanwhile", was_up=False)
        line = Line(link, lambda data: pump.offer([data]), exchange)

        def arrived(frames: list[zmq.Frame]) -> None:
            line.connection = line.connection or Connection.of(frames[0])
            exchange.receive(line, message_of(frames))

        pump = Pump(dealer, arrived)
        try:
            line.carry_out(line.link.open())
            await _serve(pump, monitor, line)
        finally:
            pump.close()
        return Ending(line.over.result().reason, was_up=line.link.peer is not None)
    finally:
        _close(dealer, monitor)


def _open(sockets: Sockets, peer: PeerId) -> tuple[zmq.Socket[bytes], Monitor]:
    """Raises Malformed for a bad PeerId, and Unreachable if there may be no more sockets."""
    dealer = None
    try:
        dealer = sockets.dealer(peer)
        return dealer, Monitor(dealer)
    except zmq.ZMQError as error:
        if dealer is not None:
            dealer.close(linger=0)
        raise Unreachable(f"no socket can be opened here ({error.strerror})") from None


def _close(dealer: zmq.Socket[bytes], monitor: Monitor) -> None:
    monitor.close()
    dealer.close(linger=LINGER_MS)


async def answers(sockets: Sockets, peer: PeerId, endpoint: str) -> str | None:
    """None if that node answers there, or why it does not."""
    try:
        dealer, monitor = _open(sockets, peer)
    except HearthError as error:
        return str(error)
    try:
        return await _connect(dealer, monitor, endpoint)
    finally:
        _close(dealer, monitor)


async def _connect(dealer: zmq.Socket[bytes], monitor: Monitor, endpoint: str) -> str | None:
    """None once the CURVE handshake is done, or why it is not."""
    try:
        dealer.connect(endpoint)
        async with asyncio.timeout(HANDSHAKE_S):
            return await monitor.connected()
    except zmq.ZMQError as error:
        return f"{endpoint} cannot be dialled: {error.strerror}"
    except TimeoutError:
        return f"no answer within {HANDSHAKE_S:.0f} s"


async def _serve(pump: Pump, monitor: Monitor, line: Line) -> None:
    watching = asyncio.create_task(monitor.ended())
    ends: list[asyncio.Future[Any]] = [watching, line.gone]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            # A refusal or goodbye may have come just before the end.
            pump.drain()
    finally:
        line.close(_BROKE)
        watching.cancel()
        await asyncio.wait({watching})
        line.let_go()
