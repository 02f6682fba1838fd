"""Dials members back, so that they learn whether they can be reached where they are seen."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from overlay.identity.branches import Branches
from overlay.identity.peer_id import PeerId
from overlay.limits import DIAL_BACK_INTERVAL_S, DIAL_BACKS_MAX, MEMBERS_MAX
from overlay.recent import Recent
from overlay.transport.connection import Line, answers
from overlay.transport.public import seen_at
from overlay.transport.sockets import Sockets
from overlay.wire.between_transports import DialedBack
from overlay.wire.codec import encode

log = logging.getLogger(__name__)


class DialBacks:
    """Only to the host that a member's own connection comes from, so that nobody has this node
    knock at other people's doors; and not often. Other requests are not answered."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        #: When each was last dialled, oldest first.
        self._dialled: Recent[PeerId, float] = Recent(MEMBERS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        #: Those under way: each may take as long as a handshake, and a crowd asks for many.
        self._places = Branches(DIAL_BACKS_MAX)

    def dial(self, line: Line, peer: PeerId, port: int) -> None:
        """The peer at the other end of ``line``, which it dialled, asks for it."""
        now = time.monotonic()
        last = self._dialled.get(peer)
        if last is not None and now < last + DIAL_BACK_INTERVAL_S / 2:
            return
        seen = seen_at(line.link.endpoint)
        if seen is None or not 0 < port <= 65535 or self._places.seat(peer, line.link.lineage):
            return
        self._dialled.put(peer, now)
        endpoint = replace(seen, port=port).endpoint
        task = asyncio.create_task(self._dial(line, peer, endpoint, port))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._places.leave(peer))

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _dial(self, line: Line, peer: PeerId, endpoint: str, port: int) -> None:
        failure = await answers(self._sockets, peer, endpoint)
        log.debug("dialled %s back at %s: %s", peer, endpoint, failure or "it answers")
        if not line.over.done():
            line.transmit(encode(DialedBack(port, failure is None)))
