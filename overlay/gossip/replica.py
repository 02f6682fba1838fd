"""One origin's records, as this node knows them: the part of Scuttlebutt that must never err.

The origin alone writes. It numbers its changes 1, 2, 3…; a key's latest change hides the earlier
ones, and a deletion is a change too (a tombstone). After a while the origin collects its old
tombstones and raises ``gc_version`` to the last of them.

What a replica is: it holds every key's latest change among those up to ``version``. Written as
(incarnation, gc_version, version), its position only ever grows in lexicographic order; `_check`
asserts that after every delta.

Why nothing deleted comes back: a deletion that was collected (its number is at most gc_version)
is missing from later deltas, so whoever had not seen it yet must start over (a reset). A reset may
take several messages, during which version < gc_version; until then the replica takes only deltas
of the same collection, for an older sender might still hold what the collection forgot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from overlay.errors import LimitExceeded, LocalProtocolError, Malformed
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    RECORD_KEY_BYTES_MAX,
    RECORD_VALUE_BYTES_MAX,
    RECORDS_PER_ORIGIN_MAX,
    TOMBSTONE_GRACE_S,
    TOMBSTONES_MAX,
)
from overlay.wire.messages import Change, DigestEntry, OriginDelta

#: Versions, heartbeats and incarnations stay below this; a real node never gets near.
NUMBER_MAX: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Lack:
    """What a peer lacks of an origin: ``changes``, oldest first, after ``after_version``."""

    after_version: int
    reset: bool
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """What a delta changed here. ``reset``: everything known before is void."""

    reset: bool = False
    changes: tuple[Change, ...] = ()


_NOTHING = Applied()


def check_entry(entry: DigestEntry) -> None:
    """Raises Malformed if no honest peer could have sent the entry."""
    numbers = (entry.incarnation, entry.heartbeat, entry.version, entry.gc_version)
    if not all(0 <= number < NUMBER_MAX for number in numbers):
        raise Malformed("a number in a digest is out of range")


def check_delta(delta: OriginDelta) -> None:
    """Raises Malformed or LimitExceeded if no honest peer could have sent the delta."""
    if len(delta.changes) > RECORDS_PER_ORIGIN_MAX:
        raise LimitExceeded(f"a delta of {len(delta.changes)} changes")
    numbers = (delta.incarnation, delta.after_version, delta.version, delta.gc_version)
    if not all(0 <= number < NUMBER_MAX for number in numbers):
        raise Malformed("a number in a delta is out of range")
    if delta.reset and delta.after_version:
        raise Malformed("a reset delta starts from nothing")
    previous = delta.after_version
    keys = set()
    for change in delta.changes:
        if not 0 < len(change.key) <= RECORD_KEY_BYTES_MAX:
            raise Malformed(f"a record's key of {len(change.key)} bytes")
        if change.value is not None and len(change.value) > RECORD_VALUE_BYTES_MAX:
            raise Malformed(f"a record's value of {len(change.value)} bytes")
        if not previous < change.version <= delta.version:
            raise Malformed("a delta's versions are out of order")
        previous = change.version
        keys.add(change.key)
    if delta.version < delta.after_version or len(keys) < len(delta.changes):
        raise Malformed("a delta contradicts itself")


class Replica:
    """Records of one origin, by key."""

    def __init__(self, origin: PeerId, incarnation: int) -> None:
        self.origin = origin
        self.incarnation = incarnation
        self.heartbeat = 0
        self.version = 0
        self.gc_version = 0
        #: The highest version of this incarnation that anybody claimed to know.
        self.seen_version = 0
        # Ordered by version, as every change is appended: what a delta needs is the tail.
        self._changes: dict[bytes, Change] = {}

    def records(self) -> Mapping[bytes, bytes]:
        """The live records."""
        return {key: c.value for key, c in self._changes.items() if c.value is not None}

    def value(self, key: bytes) -> bytes | None:
        change = self._changes.get(key)
        return change.value if change else None

    @property
    def current(self) -> bool:
        """Whether nobody is known to know more."""
        return 0 < self.version >= max(self.seen_version, self.gc_version)

    def digest(self) -> DigestEntry:
        return DigestEntry(
            self.origin, self.incarnation, self.heartbeat, self.version, self.gc_version
        )

    def lack_of(self, known: DigestEntry | None) -> Lack | None:
        """What a peer that knows ``known`` of this origin lacks; None if nothing to send."""
        if self.version == 0:
            return None
        if known is None or known.incarnation < self.incarnation:
            return Lack(0, known is not None, tuple(self._changes.values()))
        if known.incarnation > self.incarnation:
            return None
        if known.gc_version < self.gc_version and known.version < self.gc_version:
            return Lack(0, True, tuple(self._changes.values()))
        if known.version < known.gc_version and self.gc_version != known.gc_version:
            return None
        if known.version > self.version:
            return None
        if known.version == self.version and known.gc_version >= self.gc_version:
            return None
        return Lack(known.version, False, self._after(known.version))

    def apply(self, delta: OriginDelta) -> Applied:
        """Take in what is new in ``delta``, which has passed `check_delta`.

        What cannot be used is ignored: an older incarnation, changes after a gap, a collection
        that this replica is past or not ready for, more records than an honest origin has.
        """
        if delta.incarnation < self.incarnation:
            return _NOTHING
        restarted = delta.incarnation > self.incarnation
        behind = self.version < delta.gc_version and self.gc_version < delta.gc_version
        if restarted or (behind and self.version > 0):
            if delta.after_version > 0 or not (restarted or delta.reset):
                return _NOTHING
            if restarted:
                self.restart(delta.incarnation)
            else:
                self._clear()
            return Applied(True, self._take(delta))
        if self.version < self.gc_version != delta.gc_version:
            return _NOTHING
        if delta.after_version > self.version:
            return _NOTHING
        if len(self._changes) + len(delta.changes) > RECORDS_PER_ORIGIN_MAX:
            return _NOTHING
        return Applied(False, self._take(delta))

    def restart(self, incarnation: int) -> None:
        """A newer incarnation exists: nothing is known of it yet."""
        self.incarnation = incarnation
        self.heartbeat = 0
        self._clear()

    def _clear(self) -> None:
        self.version = self.gc_version = self.seen_version = 0
        self._changes.clear()

    def _take(self, delta: OriginDelta) -> tuple[Change, ...]:
        new = tuple(c for c in delta.changes if c.version > self.version)
        before = (self.incarnation, self.gc_version, self.version)
        for change in new:
            self._changes.pop(change.key, None)
            self._changes[change.key] = change
        self.version = max(self.version, delta.version)
        if delta.gc_version > self.gc_version:
            self.gc_version = delta.gc_version
            self._collect(self.gc_version)
        self._check(before)
        return new

    def _after(self, version: int) -> tuple[Change, ...]:
        tail = []
        for change in reversed(self._changes.values()):
            if change.version <= version:
                break
            tail.append(change)
        return tuple(reversed(tail))

    def _collect(self, gc_version: int) -> None:
        old = [c.key for c in self._changes.values() if c.value is None and c.version <= gc_version]
        for key in old:
            del self._changes[key]

    def _check(self, before: tuple[int, int, int]) -> None:
        assert (self.incarnation, self.gc_version, self.version) >= before, "position went back"
        newest = next(reversed(self._changes.values()), None)
        assert newest is None or newest.version <= self.version, "a change beyond the version"


class OwnRecords(Replica):
    """This node's own records: the only replica that is written to."""

    def __init__(self, origin: PeerId, incarnation: int) -> None:
        super().__init__(origin, incarnation)
        #: Deletions in the order of their versions: (version, key, when).
        self._tombstones: deque[tuple[int, bytes, float]] = deque()

    def write(self, key: bytes, value: bytes | None, now: float) -> None:
        """Set ``key``, or delete it (None). Does nothing when that is so already.

        Raises LocalProtocolError for a key or value beyond the limits.
        """
        if not key or len(key) > RECORD_KEY_BYTES_MAX:
            raise LocalProtocolError(f"a record's key of {len(key)} bytes")
        if value is not None and len(value) > RECORD_VALUE_BYTES_MAX:
            raise LocalProtocolError(f"a record's value of {len(value)} bytes")
        if self.value(key) == value:
            return
        self.version += 1
        self._changes.pop(key, None)
        self._changes[key] = Change(key, self.version, value)
        if value is None:
            self._tombstones.append((self.version, key, now))

    def collect(self, now: float) -> None:
        """Collect tombstones that are older than TOMBSTONE_GRACE_S, or too many."""
        tombstones = self._tombstones
        gc_version = self.gc_version
        while tombstones:
            version, key, deleted_s = tombstones[0]
            change = self._changes.get(key)
            if change is not None and change.version == version:
                if now - deleted_s <= TOMBSTONE_GRACE_S and len(tombstones) <= TOMBSTONES_MAX:
                    break
                gc_version = version
            tombstones.popleft()
        if gc_version > self.gc_version:
            self.gc_version = gc_version
            self._collect(gc_version)
