"""What a node passes on for others, and what it does not. Pure: ``now`` is monotonic seconds."""

from __future__ import annotations

from typing import TypeVar

from overlay.bucket import Bucket
from overlay.errors import LimitExceeded
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    MEMBERS_MAX,
    RELAY_BYTES_BURST,
    RELAY_BYTES_PER_S,
    RELAY_MESSAGES_BURST,
    RELAY_MESSAGES_PER_S,
    RELAY_SENDERS_IN_ALL,
    RELAY_SENDERS_PER_BRANCH,
    RELAY_SENDERS_PER_RECEIVER,
)

K = TypeVar("K")


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
    """How much is relayed of whom, to whom, and in all.

    To one receiver no more of a whole branch than of one member. ``head``: of the branch that a
    member is in, itself if the founder let it in.
    """

    def __init__(self) -> None:
        self._senders: dict[PeerId, RelayBudget] = {}
        self._receivers: dict[PeerId, RelayBudget] = {}
        #: By head.
        self._branches: dict[PeerId, RelayBudget] = {}
        #: By head and receiver.
        self._between: dict[tuple[PeerId, PeerId], RelayBudget] = {}
        self._all = RelayBudget(RELAY_SENDERS_IN_ALL, RELAY_SENDERS_IN_ALL, 0.0)
        #: Since the start.
        self.messages = self.bytes = self.refused = 0

    def take(
        self, sender: PeerId, receiver: PeerId, size: int, now: float, *, head: PeerId
    ) -> None:
        """A payload of ``size`` bytes is passed on. Raises LimitExceeded: it must not be."""
        budgets = (
            _budget(self._senders, sender, 1, now),
            _budget(self._between, (head, receiver), 1, now),
            _budget(self._receivers, receiver, RELAY_SENDERS_PER_RECEIVER, now),
            _budget(self._branches, head, RELAY_SENDERS_PER_BRANCH, now),
            self._all,
        )
        if any(budget.wait_s(now) for budget in budgets):
            self.refused += 1
            raise LimitExceeded(
                f"no more than {RELAY_BYTES_PER_S >> 10} KiB or {RELAY_MESSAGES_PER_S} messages "
                "a second are relayed"
            )
        for budget in budgets:
            budget.take(size, now)
        self.messages += 1
        self.bytes += size

    def room(self, receiver: PeerId, now: float, *, head: PeerId) -> int:
        """How much more of a branch may be passed on to the receiver at once, in percent of the
        most."""
        found = (
            self._between.get((head, receiver)),
            self._receivers.get(receiver),
            self._branches.get(head),
            self._all,
        )
        return int(100 * min(its.left(now) for its in found if its is not None))


def _budget(budgets: dict[K, RelayBudget], key: K, shares: int, now: float) -> RelayBudget:
    budget = budgets.get(key)
    if budget is None:
        if len(budgets) >= MEMBERS_MAX:
            quiet = [each for each, its in budgets.items() if its.full(now)]
            for each in quiet or [next(iter(budgets))]:
                del budgets[each]
        budget = budgets[key] = RelayBudget(shares, shares, now)
    return budget
