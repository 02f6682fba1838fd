"""What peers have sent is read as their budgets allow; what is over them waits, or is too much."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container
from typing import Final

from overlay.complaints import Complaints
from overlay.identity.peer_id import PeerId
from overlay.limits import ALL_PARKED_BYTES_MAX
from overlay.transport.budgets import Budget, Budgets
from overlay.transport.connection import Line, heaviest
from overlay.transport.message_queue import MessageQueue
from overlay.transport.pump import TURN_S

log = logging.getLogger(__name__)

#: All who wait for the budget of one branch wait at least so long: not for each message anew.
_LOOK_AGAIN_S: Final = 0.05
#: What Python takes for a message that waits, besides its bytes.
_MESSAGE_BYTES: Final = 64


class Reading:
    """``read`` gets each message of a line when it is to be read. ``on_excess`` is told of a peer
    that sends too much, and why it is; then the peer's lines are to end. ``linked``: peers that
    have links now."""

    def __init__(
        self,
        read: Callable[[Line, bytes, float], None],
        on_excess: Callable[[PeerId, str], None],
        linked: Container[PeerId],
    ) -> None:
        self._read_now = read
        self._on_excess = on_excess
        self._budgets = Budgets(linked)
        #: Of the lines of which something waits.
        self._inboxes: dict[Line, MessageQueue] = {}
        self._bytes = 0
        self._complaints = Complaints()

    def arrived(self, line: Line, peer: PeerId, data: bytes) -> None:
        """A message came on the line, which is up."""
        now = time.monotonic()
        budget = self._budgets.of(peer, line.link.lineage, now)
        if line in self._inboxes:
            self._park(line, peer, budget, data, now)
        elif budget.wait_s(now):
            self._slowed(peer, budget, now)
            self._inboxes[line] = MessageQueue()
            self._park(line, peer, budget, data, now)
            self._read_parked(line, peer)
        else:
            self._read(line, budget, data, now)

    def charge(self, peer: PeerId, messages: float) -> None:
        """What the peer said last counts as so many messages more."""
        self._budgets.charge(peer, messages, time.monotonic())

    def over(self, line: Line) -> None:
        """Nobody will read what is left. Idempotent."""
        inbox = self._inboxes.pop(line, None)
        if inbox is not None:
            self._bytes -= _room(inbox)

    def slowed(self) -> set[PeerId]:
        """Peers of which something waits."""
        return {line.link.peer for line in self._inboxes if line.link.peer is not None}

    def _slowed(self, peer: PeerId, budget: Budget, now: float) -> None:
        head = budget.crowd(now)
        if head is None:
            log.info("%s sends too much: it is slowed", peer)
        else:
            matter = "and whom it let in send too much together"
            self._complaints.about(head, matter, "all of them are slowed", now)

    def _read(self, line: Line, budget: Budget, data: bytes, now: float) -> None:
        budget.read(len(data), now)
        self._read_now(line, data, now)

    def _park(self, line: Line, peer: PeerId, budget: Budget, data: bytes, now: float) -> None:
        self._inboxes[line].put(data)
        self._bytes += len(data) + _MESSAGE_BYTES
        line.link.heard(now)
        self._judge(line, peer, budget, now)

    def _read_parked(self, line: Line, peer: PeerId) -> None:
        """Read what the budget allows, and come back for the rest."""
        until = time.monotonic() + TURN_S
        while True:
            now = time.monotonic()
            if (inbox := self._inboxes.get(line)) is None:
                return
            budget = self._budgets.of(peer, line.link.lineage, now)
            wait_s = budget.wait_s(now)
            if wait_s:
                break
            data = inbox.take()
            self._bytes -= len(data) + _MESSAGE_BYTES
            if not inbox:
                del self._inboxes[line]
            self._read(line, budget, data, now)
            if time.monotonic() >= until:
                break
        if line in self._inboxes:
            self._judge(line, peer, budget, now)
            again_s = max(wait_s, _LOOK_AGAIN_S) if wait_s else 0.0
            asyncio.get_running_loop().call_later(again_s, self._read_parked, line, peer)

    def _judge(self, line: Line, peer: PeerId, budget: Budget, now: float) -> None:
        inbox = self._inboxes[line]
        excess = budget.excess(len(inbox), inbox.bytes, now)
        if excess is not None:
            self._on_excess(peer, excess)
        elif self._bytes > ALL_PARKED_BYTES_MAX:
            line = heaviest({each: _room(inbox) for each, inbox in self._inboxes.items()})
            if line.link.peer is not None:
                mib = ALL_PARKED_BYTES_MAX >> 20
                self._on_excess(
                    line.link.peer,
                    f"it sent most of the {mib} MiB and more that wait to be read",
                )


def _room(inbox: MessageQueue) -> int:
    """What it takes, in bytes."""
    return inbox.bytes + _MESSAGE_BYTES * len(inbox)
