"""One origin's records, as this node knows them: the part of Scuttlebutt that must never err.

The origin alone writes. It numbers its changes 1, 2, 3…; a key's latest change hides the earlier
ones, and a deletion is a change too (a tombstone). After a while the origin collects its old
tombstones and raises ``gc_version`` to the last of them.

What a replica is: it holds every key's latest change among those up to ``version``. Written as
(incarnation, gc_version, version), its position only ever grows in lexicographic order; `_move`
asserts that.

Why nothing deleted comes back: a deletion that was collected (its number is at most gc_version)
is missing from later deltas, so whoever had not seen it yet must start over (a reset). A reset may
take several messages, during which version < gc_version; until then the replica takes only deltas
of the same collection, for an older sender might still hold what the collection forgot.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from overlay.errors import LimitExceeded, LocalProtocolError, Malformed
from overlay.gossip.latest import LatestChanges
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    MEMBERS_MAX,
    ORIGIN_BYTES_MAX,
    RECORD_KEY_BYTES_MAX,
    RECORD_VALUE_BYTES_MAX,
    RECORDS_PER_ORIGIN_MAX,
    TOMBSTONE_GRACE_S,
    TOMBSTONES_MAX,
)
from overlay.wire.anti_entropy import Change, DigestEntry, OriginDelta, OwnContents

#: Incarnations are milliseconds since 1970, and whoever is disputed counts on. No node believes in
#: higher ones, all by this same bound: where one's bound is above another's, a forgery that the
#: first believes makes it a liar to the second.
INCARNATION_MAX: Final = 1 << 48
#: Tombstones are collected once the oldest is so many times as old as it must get.
COLLECTED_LATE: Final = 1.5


class Lack(NamedTuple):
    """What a peer lacks of an origin: ``changes``, oldest first, after ``after_version``.

    Its changes can be taken once, before the replica's next change.
    """

    #: What the sender knows.
    known: DigestEntry
    after_version: int
    reset: bool
    changes: Iterator[Change]
    #: The size of the changes on the wire, at most.
    changes_bytes: int


class Applied(NamedTuple):
    """What a delta changed here. ``reset``: everything known before is void.

    ``excess``: nothing, for there were more records than an honest origin has.
    """

    reset: bool = False
    changes: tuple[Change, ...] = ()
    excess: bool = False


_NOTHING = Applied()
_EXCESS = Applied(excess=True)


def check(digest: Sequence[DigestEntry], deltas: Sequence[OriginDelta]) -> None:
    """Raises Malformed or LimitExceeded if no honest peer could have sent these."""
    if len(digest) > MEMBERS_MAX or len(deltas) > MEMBERS_MAX:
        raise LimitExceeded(f"gossip about more than {MEMBERS_MAX} members")
    # A second entry could void the changes that the first one found lacking, before they are taken.
    if len({entry.origin for entry in digest}) < len(digest):
        raise Malformed("a digest tells twice of an origin")
    for delta in deltas:
        check_delta(delta)
    incarnations = [entry.incarnation for entry in digest]
    incarnations += [delta.incarnation for delta in deltas]
    if max(incarnations, default=0) > INCARNATION_MAX:
        raise Malformed("an incarnation lies thousands of years ahead")


def check_delta(delta: OriginDelta) -> None:
    """Raises Malformed or LimitExceeded if no honest peer could have sent the delta."""
    if len(delta.changes) > RECORDS_PER_ORIGIN_MAX:
        raise LimitExceeded(f"a delta of {len(delta.changes)} changes")
    if delta.reset and delta.after_version:
        raise Malformed("a reset delta starts from nothing")
    previous = delta.after_version
    keys = set()
    for key, version, value in delta.changes:
        if not 0 < len(key) <= RECORD_KEY_BYTES_MAX:
            raise Malformed(f"a record's key of {len(key)} bytes")
        if value is not None and len(value) > RECORD_VALUE_BYTES_MAX:
            raise Malformed(f"a record's value of {len(value)} bytes")
        if version <= previous:
            raise Malformed("a delta's versions are out of order")
        previous = version
        keys.add(key)
    if delta.version < previous or len(keys) < len(delta.changes):
        raise Malformed("a delta contradicts itself")


class Replica:
    """Records of one origin, by key."""

    def __init__(self, origin: PeerId, incarnation: int) -> None:
        #: How much is known here, as digests tell it.
        self.known = DigestEntry(origin, incarnation, 0, 0, 0)
        #: The highest version of this incarnation that anybody claimed to know.
        self.seen_version = 0
        #: When nobody was known to know more; -inf: never.
        self.current_s = -math.inf
        #: Who told of the latest changes, but for the origin itself.
        self.teller: PeerId | None = None
        self._changes = LatestChanges()
        self._contents = OwnContents(incarnation, 0, 0, self._changes.digest())

    @property
    def origin(self) -> PeerId:
        return self.known.origin

    @property
    def incarnation(self) -> int:
        return self.known.incarnation

    @property
    def size_bytes(self) -> int:
        """What its changes take on the wire, at most."""
        return self._changes.size_bytes

    def records(self) -> Mapping[bytes, bytes]:
        """A copy of the live records."""
        return self._changes.live()

    def record(self, key: bytes) -> bytes | None:
        """One live record."""
        change = self._changes.get(key)
        return change.value if change else None

    def contents(self) -> OwnContents:
        """What is known, in the form in which the origin says what it wrote."""
        _, incarnation, _, version, gc_version = self.known
        if self._contents[:3] != (incarnation, version, gc_version):
            digest = self._changes.digest()
            self._contents = OwnContents(incarnation, version, gc_version, digest)
        return self._contents

    def knows_beyond(self, version: int, gc_version: int) -> bool:
        """Whether more is known than there is at this position of the same incarnation."""
        return self.known.version > version or self.known.gc_version > gc_version

    def differs_from(self, own: OwnContents) -> bool:
        """Whether the origin wrote other records, up to the latest change that is known."""
        _, incarnation, _, version, gc_version = self.known
        return own[:3] == (incarnation, version, gc_version) and own != self.contents()

    def note_current(self, now: float) -> None:
        """There is news of the origin: if nobody is known to know more, this replica is current."""
        _, _, _, version, gc_version = self.known
        if 0 < version >= self.seen_version and version >= gc_version:
            self.current_s = now

    def beat(self, news: DigestEntry) -> None:
        """The origin's heartbeat rose to that of ``news``, which is of the same incarnation."""
        origin, incarnation, _, version, gc_version = self.known
        if news.version == version and news.gc_version == gc_version:
            self.known = news
        else:
            self.known = DigestEntry(origin, incarnation, news.heartbeat, version, gc_version)

    def lack_of(self, peer: DigestEntry | None) -> Lack | None:
        """What a peer that knows ``peer`` of this origin lacks; None if nothing to send."""
        _, incarnation, _, version, gc_version = self.known
        if version == 0:
            return None
        if peer is None:
            return self._lack(0, reset=False)
        _, peer_incarnation, _, peer_version, peer_gc_version = peer
        if peer_incarnation != incarnation:
            return self._lack(0, reset=True) if peer_incarnation < incarnation else None
        if peer_version == version and peer_gc_version >= gc_version:
            return None
        if peer_version < gc_version and peer_gc_version < gc_version:
            return self._lack(0, reset=True)
        if peer_version < peer_gc_version != gc_version:
            return None
        return self._lack(peer_version, reset=False) if peer_version <= version else None

    def apply(self, delta: OriginDelta) -> Applied:
        """Take in what is new in ``delta``, which has passed `check_delta`.

        What cannot be used is ignored: an older incarnation, changes after a gap, a collection
        that this replica is past or not ready for, more records than an honest origin has.
        """
        _, incarnation, heartbeat, version, gc_version = self.known
        if delta.incarnation < incarnation:
            return _NOTHING
        restarted = delta.incarnation > incarnation
        if not restarted and delta.version > self.seen_version:
            self.seen_version = delta.version
        behind = version < delta.gc_version and gc_version < delta.gc_version
        if restarted or (behind and version > 0):
            if delta.after_version > 0 or not (restarted or delta.reset):
                return _NOTHING
            self._changes.clear()
            self.seen_version = delta.version
            self._move(
                delta.incarnation, 0 if restarted else heartbeat, delta.version, delta.gc_version
            )
            return Applied(True, self._put(delta.changes, 0))
        if version < gc_version != delta.gc_version:
            return _NOTHING
        if delta.after_version > version:
            return _NOTHING
        records = len(self._changes) + len(delta.changes)
        if records > RECORDS_PER_ORIGIN_MAX or self.size_bytes > ORIGIN_BYTES_MAX:
            return _EXCESS
        self._move(
            incarnation,
            heartbeat,
            max(version, delta.version),
            max(gc_version, delta.gc_version),
        )
        new = self._put(delta.changes, version)
        if delta.gc_version > gc_version:
            self._changes.collect(delta.gc_version)
        return Applied(False, new)

    def restart(self, incarnation: int) -> None:
        """A newer incarnation exists: nothing is known of it yet."""
        self._move(incarnation, 0, 0, 0)
        self._changes.clear()
        self.seen_version = 0

    def _lack(self, after_version: int, *, reset: bool) -> Lack:
        changes, size_bytes = self._changes.after(after_version)
        return Lack(self.known, after_version, reset, changes, size_bytes)

    def _move(self, incarnation: int, heartbeat: int, version: int, gc_version: int) -> None:
        origin, incarnation_before, _, version_before, gc_version_before = self.known
        assert (incarnation, gc_version, version) >= (
            incarnation_before,
            gc_version_before,
            version_before,
        ), "the position went back"
        self.known = DigestEntry(origin, incarnation, heartbeat, version, gc_version)

    def _put(self, changes: tuple[Change, ...], known_version: int) -> tuple[Change, ...]:
        """Put those that are new; returns them."""
        if changes and changes[0].version <= known_version:
            changes = tuple(change for change in changes if change.version > known_version)
        for change in changes:
            self._changes.put(change)
        return changes


class _Tombstone(NamedTuple):
    version: int
    key: bytes
    deleted_s: float


class OwnRecords(Replica):
    """This node's own records: the only replica that is written to."""

    def __init__(self, origin: PeerId, incarnation: int) -> None:
        super().__init__(origin, incarnation)
        #: Deletions in the order of their versions.
        self._tombstones: deque[_Tombstone] = deque()

    def write(self, key: bytes, value: bytes | None, now: float) -> None:
        """Set ``key``, or delete it (None). Does nothing when that is so already.

        Raises LocalProtocolError for a key or value beyond the limits.
        """
        if not key or len(key) > RECORD_KEY_BYTES_MAX:
            raise LocalProtocolError(f"a record's key of {len(key)} bytes")
        if value is not None and len(value) > RECORD_VALUE_BYTES_MAX:
            raise LocalProtocolError(f"a record's value of {len(value)} bytes")
        before = self._changes.get(key)
        if (before.value if before else None) == value:
            return
        _, incarnation, heartbeat, version, gc_version = self.known
        self._move(incarnation, heartbeat, version + 1, gc_version)
        self._changes.put(Change(key, version + 1, value))
        if value is None:
            self._tombstones.append(_Tombstone(version + 1, key, now))

    def live_on(self) -> None:
        """Raise the heartbeat: this node is alive."""
        _, incarnation, heartbeat, version, gc_version = self.known
        self._move(incarnation, heartbeat + 1, version, gc_version)

    def knows_less_than(self, claim: DigestEntry | OriginDelta, heartbeat: int) -> bool:
        """Whether somebody claims to know more of this node than there is to know."""
        _, incarnation, own_heartbeat, version, gc_version = self.known
        return claim.incarnation > incarnation or (
            claim.incarnation == incarnation
            and (
                claim.version > version
                or claim.gc_version > gc_version
                or heartbeat > own_heartbeat
            )
        )

    def rise_above(self, incarnation: int) -> None:
        """Go on with the same records as the next incarnation after ``incarnation``."""
        _, _, heartbeat, version, gc_version = self.known
        self._move(incarnation + 1, heartbeat, version, gc_version)

    def collect(self, now: float) -> None:
        """Collect tombstones that are older than TOMBSTONE_GRACE_S, or too many.

        Seldom, and then many: who starts over does so again with each collection that it hears of
        meanwhile. Were there one in every round, it would never come to an end.
        """
        tombstones = self._tombstones
        most = TOMBSTONES_MAX
        if len(tombstones) > most:
            most //= 2
        elif not tombstones or now - tombstones[0].deleted_s <= COLLECTED_LATE * TOMBSTONE_GRACE_S:
            return
        _, incarnation, heartbeat, own_version, before = self.known
        gc_version = before
        while tombstones:
            version, key, deleted_s = tombstones[0]
            change = self._changes.get(key)
            if change is not None and change.version == version:
                if now - deleted_s <= TOMBSTONE_GRACE_S and len(tombstones) <= most:
                    break
                gc_version = version
            tombstones.popleft()
        if gc_version > before:
            self._move(incarnation, heartbeat, own_version, gc_version)
            self._changes.collect(gc_version)
