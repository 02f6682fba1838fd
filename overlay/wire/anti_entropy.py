"""The messages of gossip, as `overlay.wire.messages` has them.

What gossip holds by the hundred thousand is a named tuple: made, compared and taken apart several
times faster than a dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, NamedTuple

from overlay.identity.peer_id import PeerId

#: What gossip counts stays below this; a real node never gets near.
COUNTER_MAX: Final = 1 << 62
#: 0 <= n < COUNTER_MAX.
Counter = Annotated[int, "counter"]


class DigestEntry(NamedTuple):
    """How much the sender knows of one origin: everything up to ``version``.

    Tombstones up to ``gc_version`` are collected; see `overlay.gossip.replica`.
    """

    origin: PeerId
    incarnation: Counter
    heartbeat: Counter
    version: Counter
    gc_version: Counter


class Change(NamedTuple):
    """One record: ``value`` is msgpack bytes, or None for a tombstone.

    `overlay.gossip.records` says which keys there are.
    """

    key: bytes
    version: Counter
    value: bytes | None


class OriginDelta(NamedTuple):
    """Changes of one origin with versions in ``(after_version, version]``, oldest first.

    ``reset``: the receiver drops what it knew of the origin first (it was away longer than
    tombstones are kept, or the origin restarted).
    """

    origin: PeerId
    incarnation: Counter
    after_version: Counter
    reset: bool
    changes: tuple[Change, ...]
    #: The origin's version that a receiver knows after these changes (gaps were overwritten since).
    version: Counter
    #: The sender has collected the origin's tombstones up to this version.
    gc_version: Counter


class OwnContents(NamedTuple):
    """What the sender's own records are: whoever knows others up to the same change, was lied to.

    ``digest`` is of all records; see `overlay.gossip.latest`.
    """

    incarnation: Counter
    version: Counter
    gc_version: Counter
    digest: bytes


@dataclass(frozen=True, slots=True)
class Syn:
    """Opens a push-pull round."""

    KIND: ClassVar[int] = 10
    digest: tuple[DigestEntry, ...]


@dataclass(frozen=True, slots=True)
class SynAck:
    """Answers Syn: what the opener lacks, and what the answerer knows otherwise than Syn."""

    KIND: ClassVar[int] = 11
    digest: tuple[DigestEntry, ...]
    deltas: tuple[OriginDelta, ...]
    own: OwnContents | None = None


@dataclass(frozen=True, slots=True)
class GossipAck:
    """Closes the round: what the answerer lacks."""

    KIND: ClassVar[int] = 12
    deltas: tuple[OriginDelta, ...]


@dataclass(frozen=True, slots=True)
class CompactSyn:
    """Opens a push-pull round by a digest that only its like can read: `overlay.gossip.compact`.

    Answered by CompactSynAck, or by a Syn if the receiver takes other origins for alive.
    """

    KIND: ClassVar[int] = 30
    #: Of whom the digest is.
    fingerprint: bytes
    #: For each of them, as unsigned 16 bit: the heartbeat; version and gc_version.
    heartbeats: bytes
    contents: bytes


@dataclass(frozen=True, slots=True)
class CompactSynAck:
    """Answers CompactSyn as SynAck answers Syn.

    Both fields begin with a bit for each origin that they tell of, or are empty.
    """

    KIND: ClassVar[int] = 31
    fingerprint: bytes
    #: For each of these origins, as unsigned 16 bit: the heartbeat, where nothing else differs;
    #: heartbeat, version and gc_version.
    heartbeats: bytes
    contents: bytes
    deltas: tuple[OriginDelta, ...]
    own: OwnContents | None = None


@dataclass(frozen=True, slots=True)
class RevocationNotice:
    """News that cannot wait for a round; `overlay.identity.revocations` says what ``record`` is.

    The receiver verifies it, and passes it on over all its links if it is news there.
    """

    KIND: ClassVar[int] = 13
    record: bytes
