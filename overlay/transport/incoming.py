"""Connections that others dialled: one ROUTER, one line per route."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Final

import zmq

from overlay.complaints import Complaints
from overlay.limits import STRANGERS_MAX, STRANGERS_PER_ADDRESS_MAX
from overlay.transport.budgets import Handshakes
from overlay.transport.callers import Callers
from overlay.transport.connection import Exchange, Line, message_of
from overlay.transport.link import Link, LinkState
from overlay.transport.pump import Pump
from overlay.transport.sockets import LINGER_MS, Connection, sender_key

#: A refused peer has this long to read why before its connection is cut.
_CUT_AFTER_S: Final = 1.0
#: What ZeroMQ calls a connection whose other end does not give it another name.
_NAME_BYTES: Final = 5
#: Messages that may come in that time, under way when the link ended.
_LATE_MESSAGES_MAX: Final = 64


@dataclass(slots=True, eq=False)
class _Route:
    remote_curve: bytes
    connection: Connection
    line: Line
    late_messages: int = 0
    cutting: asyncio.TimerHandle | None = None


class Listener:
    """Sorts what arrives by connection. ``new_link`` takes the CURVE key and the remote address.

    ``ports``: those that the ``router`` is bound to.
    """

    def __init__(
        self,
        router: zmq.Socket[bytes],
        ports: Container[int],
        new_link: Callable[[bytes, str], Link],
        exchange: Exchange,
    ) -> None:
        self._router = router
        self._new_link = new_link
        self._exchange = exchange
        self._routes: dict[bytes, _Route] = {}
        #: Those that were not let in yet when the latest connection came, oldest first.
        self._strangers: list[_Route] = []
        self._handshakes = Handshakes()
        self._complaints = Complaints()
        self._accepting = True
        self._callers = Callers(router, ports, self._complain_of_silence)
        self._pump = Pump(router, self._arrived)

    def stop_accepting(self) -> None:
        """New connections are cut from here on."""
        self._accepting = False

    def close(self) -> None:
        self._pump.close()
        self._callers.close()
        for route in self._routes.values():
            if route.cutting is not None:
                route.cutting.cancel()
        self._router.close(linger=LINGER_MS)

    def _arrived(self, arrived: list[zmq.Frame]) -> None:
        frames = arrived[1:]
        if len(arrived[0]) != _NAME_BYTES:
            # ZeroMQ puts it before each message anew, and it may be as long as one.
            self._turn_away(Connection.of(frames[0]), "it gives itself a name")
            return
        name = arrived[0].bytes
        remote_curve = sender_key(frames[0])
        route = self._routes.get(name)
        # A route's name is free for the next peer once its connection is gone.
        if route is not None and route.remote_curve != remote_curve:
            route.line.close("the connection broke")
            route = None
        if route is None:
            connection = Connection.of(frames[0])
            self._callers.spoke(connection)
            route = self._open(name, remote_curve, connection)
            if route is None:
                self._callers.left(connection)
                return
        if route.line.link.state is LinkState.DOWN:
            route.late_messages += 1
            if route.late_messages >= _LATE_MESSAGES_MAX:
                route.connection.cut()
                return
        self._exchange.receive(route.line, message_of(frames))

    def _open(self, name: bytes, remote_curve: bytes, connection: Connection) -> _Route | None:
        if not self._accepting:
            connection.cut()
            return None
        strangers = self._strangers = [
            route for route in self._strangers if route.line.link.state is LinkState.OPENING
        ]
        source = connection.source
        as_many = sum(route.connection.source == source for route in strangers)
        if as_many >= STRANGERS_PER_ADDRESS_MAX or not self._handshakes.admit(
            source, time.monotonic()
        ):
            self._turn_away(connection, "it has too many connections")
            return None
        if len(strangers) >= STRANGERS_MAX:
            # Whoever has had the longest time to show a certificate. To turn newcomers away would
            # keep out members, who show theirs at once, for as long as strangers fill the places.
            strangers[0].line.close("others wait to be let in")
            strangers[0].connection.cut()
        line = Line(
            self._new_link(remote_curve, connection.remote),
            lambda data: self._pump.offer([name, data]),
            self._exchange,
        )
        line.connection = connection
        route = self._routes[name] = _Route(remote_curve, connection, line)
        strangers.append(route)
        line.over.add_done_callback(lambda _: self._over(name, route))
        line.carry_out(line.link.open())
        return route

    def _over(self, name: bytes, route: _Route) -> None:
        # ZeroMQ has no call to end one connection of many, and would keep it alive for ever.
        loop = asyncio.get_running_loop()
        route.cutting = loop.call_later(_CUT_AFTER_S, self._cut, name, route)

    def _cut(self, name: bytes, route: _Route) -> None:
        route.connection.cut()
        self._callers.left(route.connection)
        # What had come by then is still to be read, and must not pass for a new connection's.
        loop = asyncio.get_running_loop()
        route.cutting = loop.call_later(_CUT_AFTER_S, self._forget, name, route)

    def _forget(self, name: bytes, route: _Route) -> None:
        if self._routes.get(name) is route:
            del self._routes[name]

    def _turn_away(self, connection: Connection, why: str) -> None:
        connection.cut()
        self._complain(connection.source, why)

    def _complain_of_silence(self, source: str) -> None:
        self._complain(source, "it connects and says nothing")

    def _complain(self, source: str, why: str) -> None:
        self._complaints.about(source, "is not let in", why, time.monotonic())
