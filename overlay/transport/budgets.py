"""What a peer may send, and what becomes of one that sends more: slowed, cut, banned.

Pure: times are in seconds, of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from overlay.bucket import Bucket
from overlay.identity.branches import Lineage
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    BAN_MAX_S,
    BAN_S,
    BRANCH_SURPLUS,
    BREACHES_MAX,
    BREACHES_S,
    HANDSHAKES_BURST,
    HANDSHAKES_PER_S,
    MEMBERS_MAX,
    PARKED_BYTES_MAX,
    PARKED_MESSAGES_MAX,
    PEER_BYTES_BURST,
    PEER_BYTES_PER_S,
    PEER_MESSAGES_BURST,
    PEER_MESSAGES_PER_S,
    SLOWED_MAX_S,
)
from overlay.recent import Recent

#: Who has not been slowed for so long begins anew.
_RECOVERED_S: Final = 1.0
#: Addresses with handshakes of late that are remembered.
_SOURCES_MAX: Final = 4096


class ReadBudget:
    """How many messages and bytes may be read of a peer, or of a branch."""

    def __init__(self, peers: float, now: float) -> None:
        """As of so many ``peers``."""
        self.messages = Bucket(peers * PEER_MESSAGES_PER_S, peers * PEER_MESSAGES_BURST, now)
        self.bytes = Bucket(peers * PEER_BYTES_PER_S, peers * PEER_BYTES_BURST, now)

    def wait_s(self, now: float) -> float:
        return max(self.messages.wait_s(now), self.bytes.wait_s(now))


class Budget:
    """What one peer may have read of its messages, on all its links together.

    ``branches``: of those that it is in, by its ``lineage``, each has a budget of its own.
    """

    def __init__(self, now: float) -> None:
        self._own = ReadBudget(1, now)
        self.lineage: Lineage = ()
        self.branches: tuple[ReadBudget, ...] = ()
        #: Since when it has been slowed, and when it was the last time; None: it is not.
        self._slowed: tuple[float, float] | None = None

    def read(self, size: int, now: float) -> None:
        """A message is read."""
        for budget in (self._own, *self.branches):
            budget.messages.take(1, now)
            budget.bytes.take(size, now)

    def charge(self, messages: float, now: float) -> None:
        """The message that was read last counts as so many more."""
        for budget in (self._own, *self.branches):
            budget.messages.take(messages, now)

    def wait_s(self, now: float) -> float:
        """For how long nothing more of it is to be read; 0: the next message may be."""
        wait_s = self._own.wait_s(now)
        if wait_s:
            since, last = self._slowed or (now, now)
            self._slowed = (now if now - last > _RECOVERED_S else since, now + wait_s)
        return max([wait_s, *(branch.wait_s(now) for branch in self.branches)])

    def crowd(self, now: float) -> PeerId | None:
        """Whose branch it has to wait for, the smallest there is, if not for itself."""
        if self._own.wait_s(now):
            return None
        branches = zip(self.lineage, self.branches, strict=True)
        return next((head for head, branch in [*branches][::-1] if branch.wait_s(now)), None)

    def excess(self, parked_messages: int, parked_bytes: int, now: float) -> str | None:
        """Why it is not enough to slow it, if so. ``parked``: what has arrived and is not read."""
        since, last = self._slowed or (now, now)
        if (
            (now - since > SLOWED_MAX_S and now - last <= _RECOVERED_S)
            or parked_messages > PARKED_MESSAGES_MAX
            or parked_bytes > PARKED_BYTES_MAX
        ):
            return (
                f"it sent more than {PEER_MESSAGES_PER_S} messages or "
                f"{PEER_BYTES_PER_S >> 20} MiB a second for too long"
            )
        return None


class Budgets:
    """Of peers that have links, or had: a new link is no new budget.

    Whoever may invite can let in keys that it made up. So nobody's branch (see
    `overlay.identity.branches`) may send much more than a peer: half as much again if the founder
    let its head in, and less the deeper it is, so that it leaves something to those around it.
    """

    def __init__(self, linked: Container[PeerId]) -> None:
        """``linked``: who has a link now. The others are forgotten first."""
        self._linked = linked
        self._budgets: dict[PeerId, Budget] = {}
        #: By the lineage of its head, each for as long as there is a budget of anybody in it.
        self._branches: WeakValueDictionary[Lineage, ReadBudget] = WeakValueDictionary()

    def of(self, peer: PeerId, lineage: Lineage, now: float) -> Budget:
        """The peer's; ``lineage``: by whom it is let in now."""
        budget = self._budgets.get(peer)
        if budget is None:
            if len(self._budgets) >= MEMBERS_MAX:
                away = (each for each in self._budgets if each not in self._linked)
                del self._budgets[next(away, next(iter(self._budgets)))]
            budget = self._budgets[peer] = Budget(now)
        if budget.lineage != lineage:
            budget.lineage = lineage
            depths = range(1, len(lineage) + 1)
            budget.branches = tuple(self._branch(lineage[:depth], now) for depth in depths)
        return budget

    def charge(self, peer: PeerId, messages: float, now: float) -> None:
        """What was read last of the peer counts as so many messages more."""
        if (budget := self._budgets.get(peer)) is not None:
            budget.charge(messages, now)

    def _branch(self, lineage: Lineage, now: float) -> ReadBudget:
        found = self._branches.get(lineage)
        if found is None:
            found = self._branches[lineage] = ReadBudget(1 + BRANCH_SURPLUS ** len(lineage), now)
        return found


@dataclass(frozen=True, slots=True)
class Ban:
    """Nothing is exchanged with a peer ``until``. ``count``: how many times so far."""

    until: float
    reason: str
    count: int


class Bans:
    """Each ban lasts twice as long as the one before, up to BAN_MAX_S; good conduct is rewarded."""

    def __init__(self) -> None:
        self._bans: dict[PeerId, Ban] = {}

    def ban(self, peer: PeerId, reason: str, now: float) -> Ban:
        """The peer is banned from now on."""
        before = self._bans.pop(peer, None)
        # Who kept the peace for as long as the longest ban begins anew.
        count = 1 if before is None or now - before.until > BAN_MAX_S else before.count + 1
        lasts_s = min(BAN_S * 2 ** min(count - 1, 30), BAN_MAX_S)
        if len(self._bans) >= MEMBERS_MAX:
            del self._bans[min(self._bans, key=lambda each: (self._bans[each].until, each))]
        made = self._bans[peer] = Ban(now + lasts_s, reason, count)
        return made

    def of(self, peer: PeerId, now: float) -> Ban | None:
        """The ban that the peer is under."""
        ban = self._bans.get(peer)
        return ban if ban is not None and now < ban.until else None

    def all(self, now: float) -> dict[PeerId, Ban]:
        """Every ban that is not over."""
        return {peer: ban for peer in sorted(self._bans) if (ban := self.of(peer, now)) is not None}


class Breaches:
    """How often members broke the protocol of late."""

    def __init__(self) -> None:
        self._breaches: Recent[PeerId, list[float]] = Recent(MEMBERS_MAX)

    def too_many(self, peer: PeerId, now: float) -> bool:
        """The peer broke it once more: whether that was once too often. Then it begins anew."""
        recent = [at for at in self._breaches.pop(peer, ()) if now < at + BREACHES_S]
        recent.append(now)
        if len(recent) >= BREACHES_MAX:
            return True
        self._breaches.put(peer, recent)
        return False


class Handshakes:
    """How often strangers from one address may knock, or members of one branch through relays."""

    def __init__(self) -> None:
        self._sources: dict[str, Bucket] = {}

    def admit(self, source: str, now: float) -> bool:
        """Somebody connects from ``source``: whether to talk to them."""
        bucket = self._sources.get(source)
        if bucket is None:
            if len(self._sources) >= _SOURCES_MAX:
                self._forget(now)
            bucket = self._sources[source] = Bucket(HANDSHAKES_PER_S, HANDSHAKES_BURST, now)
        if bucket.wait_s(now):
            return False
        bucket.take(1, now)
        return True

    def _forget(self, now: float) -> None:
        """Drop those that have been quiet, or the one that was heard of first."""
        quiet = [source for source, bucket in self._sources.items() if bucket.full(now)]
        for source in quiet or [next(iter(self._sources))]:
            del self._sources[source]
