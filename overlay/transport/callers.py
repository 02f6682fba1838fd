"""Connections to the listener that have not said anything whole yet.

A ROUTER tells of a connection with its first whole message. Until then libzmq bounds the time that
CURVE takes, and nothing else: who has a key could be silent for ever after that, or begin a message
of parts without end, all of which libzmq keeps. So each connection is noted as it is accepted.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Container
from typing import Final

import zmq

from overlay.limits import CALLERS_MAX, CALLERS_PER_ADDRESS_MAX, HANDSHAKE_S
from overlay.transport.pump import Pump
from overlay.transport.sockets import Connection, allow_descriptors

#: Longer than libzmq waits: of who has not even come to the end of CURVE there is nothing to say.
SPEAK_S: Final = HANDSHAKE_S + 1.0
#: Who comes from more addresses than could all be named in a log.
CROWD: Final = "a crowd"
#: Of the descriptors that there are, callers may have this share.
_SHARE: Final = 1 / 4


class Callers:
    """Cuts those that say nothing for SPEAK_S, and the oldest of too many, in all or from a source.

    ``ports``: those that the ``router`` is bound to. ``on_cut`` is told the source of each; of
    too many from everywhere, that it is a crowd.
    """

    def __init__(
        self,
        router: zmq.Socket[bytes],
        ports: Container[int],
        on_cut: Callable[[str], None],
    ) -> None:
        self._router = router
        self._ports = ports
        self._on_cut = on_cut
        self._most = min(CALLERS_MAX, int(_SHARE * allow_descriptors()))
        #: By descriptor: who has not spoken, the oldest first, and who has.
        self._silent: dict[int, Connection] = {}
        #: How many of those who have not spoken come from each source.
        self._from: Counter[str] = Counter()
        self._spoke: dict[int, Connection] = {}
        self._monitor = router.get_monitor_socket(zmq.EVENT_ACCEPTED)
        self._pump = Pump(self._monitor, self._accepted)

    def spoke(self, connection: Connection) -> None:
        """Its first message has come."""
        self._forget(connection.descriptor)
        self._spoke[connection.descriptor] = connection

    def left(self, connection: Connection) -> None:
        """It has spoken, and is over."""
        if self._spoke.get(connection.descriptor) is connection:
            del self._spoke[connection.descriptor]

    def close(self) -> None:
        """Call it before the router is closed."""
        self._silent.clear()
        self._pump.close()
        self._router.disable_monitor()
        self._monitor.close(linger=0)

    def _accepted(self, event: list[zmq.Frame]) -> None:
        _, descriptor = struct.unpack("=HI", event[0].bytes)
        connection = Connection.accepted(descriptor, self._ports)
        if connection is None:
            return
        spoke = self._spoke.get(descriptor)
        if spoke is not None and spoke.remote == connection.remote:
            return  # It was quicker than the news of it.
        self._forget(descriptor)
        self._silent[descriptor] = connection
        self._from[connection.source] += 1
        asyncio.get_running_loop().call_later(SPEAK_S, self._judge, connection)
        if self._from[connection.source] > CALLERS_PER_ADDRESS_MAX:
            alike = (each for each in self._silent.values() if each.source == connection.source)
            self._judge(next(alike))
        elif len(self._silent) > self._most:
            self._judge(next(iter(self._silent.values())), CROWD)

    def _judge(self, connection: Connection, source: str = "") -> None:
        if self._silent.get(connection.descriptor) is connection:
            self._forget(connection.descriptor)
            if connection.cut():
                self._on_cut(source or connection.source)

    def _forget(self, descriptor: int) -> None:
        connection = self._silent.pop(descriptor, None)
        if connection is not None:
            self._from[connection.source] -= 1
            if not self._from[connection.source]:
                del self._from[connection.source]
