"""What a node passes on for others, and what it does not. Pure: ``now`` is monotonic seconds."""

from __future__ import annotations

from overlay.errors import LimitExceeded
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    MEMBERS_MAX,
    RELAY_BYTES_BURST,
    RELAY_BYTES_PER_S,
    RELAY_MESSAGES_BURST,
    RELAY_MESSAGES_PER_S,
    RELAY_SENDERS_PER_RECEIVER,
)
from overlay.transport.budgets import Bucket


class _Budget:
    """Bytes and messages of one sender, or to one receiver."""

    def __init__(self, shares: int, now: float) -> None:
        self._messages = Bucket(shares * RELAY_MESSAGES_PER_S, shares * RELAY_MESSAGES_BURST, now)
        self._bytes = Bucket(shares * RELAY_BYTES_PER_S, shares * RELAY_BYTES_BURST, now)

    def spent(self, now: float) -> bool:
        return bool(self._messages.wait_s(now) or self._bytes.wait_s(now))

    def take(self, size: int, now: float) -> None:
        self._messages.take(1, now)
        self._bytes.take(size, now)

    def full(self, now: float) -> bool:
        return self._messages.full(now) and self._bytes.full(now)


class Allowance:
    """How much is relayed of whom, and to whom."""

    def __init__(self) -> None:
        self._senders: dict[PeerId, _Budget] = {}
        self._receivers: dict[PeerId, _Budget] = {}
        #: Since the start.
        self.messages = self.bytes = self.refused = 0

    def take(self, sender: PeerId, receiver: PeerId, size: int, now: float) -> None:
        """A payload of ``size`` bytes is passed on. Raises LimitExceeded: it must not be."""
        sent = _budget(self._senders, sender, 1, now)
        received = _budget(self._receivers, receiver, RELAY_SENDERS_PER_RECEIVER, now)
        if sent.spent(now) or received.spent(now):
            self.refused += 1
            raise LimitExceeded(
                f"no more than {RELAY_BYTES_PER_S >> 10} KiB or {RELAY_MESSAGES_PER_S} messages "
                "a second are relayed"
            )
        for budget in (sent, received):
            budget.take(size, now)
        self.messages += 1
        self.bytes += size


def _budget(budgets: dict[PeerId, _Budget], peer: PeerId, shares: int, now: float) -> _Budget:
    budget = budgets.get(peer)
    if budget is None:
        if len(budgets) >= MEMBERS_MAX:
            quiet = [each for each, its in budgets.items() if its.full(now)]
            for each in quiet or [next(iter(budgets))]:
                del budgets[each]
        budget = budgets[peer] = _Budget(shares, now)
    return budget
