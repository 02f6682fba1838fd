"""What a peer may send, and what becomes of one that sends more: slowed, cut, banned.

Pure: times are in seconds, of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.bucket import Bucket
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    BAN_MAX_S,
    BAN_S,
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


class Budget:
    """What one peer may have read of its messages, on all its links together."""

    def __init__(self, now: float) -> None:
        self._messages = Bucket(PEER_MESSAGES_PER_S, PEER_MESSAGES_BURST, now)
        self._bytes = Bucket(PEER_BYTES_PER_S, PEER_BYTES_BURST, now)
        #: Since when it has been slowed, and when it was the last time; None: it is not.
        self._slowed: tuple[float, float] | None = None

    def read(self, size: int, now: float) -> None:
        """A message is read."""
        self._messages.take(1, now)
        self._bytes.take(size, now)

    def charge(self, messages: float, now: float) -> None:
        """The message that was read last counts as so many more."""
        self._messages.take(messages, now)

    def wait_s(self, now: float) -> float:
        """For how long nothing more of it is to be read; 0: the next message may be."""
        wait_s = max(self._messages.wait_s(now), self._bytes.wait_s(now))
        if wait_s:
            since, last = self._slowed or (now, now)
            self._slowed = (now if now - last > _RECOVERED_S else since, now + wait_s)
        return wait_s

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
    """How often strangers from one address may knock."""

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
