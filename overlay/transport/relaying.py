"""What a node passes on for others, and what it does not. Pure: ``now`` is monotonic seconds."""

from __future__ import annotations

from overlay.bucket import Bucket
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


class RelayBudget:
    """Bytes and messages that a relay passes on; the parameters are in shares of one sender's."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._messages = Bucket(rate * RELAY_MESSAGES_PER_S, burst * RELAY_MESSAGES_BURST, now)
        self._bytes = Bucket(rate * RELAY_BYTES_PER_S, burst * RELAY_BYTES_BURST, now)

    def change(self, rate: float, burst: float, now: float) -> None:
        """So much is granted from now on."""
        self._messages.change(rate * RELAY_MESSAGES_PER_S, burst * RELAY_MESSAGES_BURST, now)
        self._bytes.change(rate * RELAY_BYTES_PER_S, burst * RELAY_BYTES_BURST, now)

    def wait_s(self, now: float) -> float:
        """Until another message may be passed on."""
        return max(self._messages.wait_s(now), self._bytes.wait_s(now))

    def left(self, now: float) -> float:
        """How much of the burst there is, from 0 to 1."""
        return min(self._messages.left(now), self._bytes.left(now))

    def take(self, size: int, now: float) -> None:
        self._messages.take(1, now)
        self._bytes.take(size, now)

    def full(self, now: float) -> bool:
        return self._messages.full(now) and self._bytes.full(now)


class Allowance:
    """How much is relayed of whom, and to whom."""

    def __init__(self) -> None:
        self._senders: dict[PeerId, RelayBudget] = {}
        self._receivers: dict[PeerId, RelayBudget] = {}
        #: Since the start.
        self.messages = self.bytes = self.refused = 0

    def take(self, sender: PeerId, receiver: PeerId, size: int, now: float) -> None:
        """A payload of ``size`` bytes is passed on. Raises LimitExceeded: it must not be."""
        sent = _budget(self._senders, sender, 1, now)
        received = _budget(self._receivers, receiver, RELAY_SENDERS_PER_RECEIVER, now)
        if sent.wait_s(now) or received.wait_s(now):
            self.refused += 1
            raise LimitExceeded(
                f"no more than {RELAY_BYTES_PER_S >> 10} KiB or {RELAY_MESSAGES_PER_S} messages "
                "a second are relayed"
            )
        for budget in (sent, received):
            budget.take(size, now)
        self.messages += 1
        self.bytes += size

    def room(self, receiver: PeerId, now: float) -> int:
        """How much more may be passed on to the receiver at once, in percent of the most."""
        budget = self._receivers.get(receiver)
        return 100 if budget is None else int(100 * budget.left(now))


def _budget(
    budgets: dict[PeerId, RelayBudget], peer: PeerId, shares: int, now: float
) -> RelayBudget:
    budget = budgets.get(peer)
    if budget is None:
        if len(budgets) >= MEMBERS_MAX:
            quiet = [each for each, its in budgets.items() if its.full(now)]
            for each in quiet or [next(iter(budgets))]:
                del budgets[each]
        budget = budgets[peer] = RelayBudget(shares, shares, now)
    return budget
