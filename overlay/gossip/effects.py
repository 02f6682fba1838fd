"""What `Gossip` asks its driver to do, or tells it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from overlay.identity.peer_id import PeerId
from overlay.wire.anti_entropy import Change, CompactSyn, CompactSynAck, GossipAck, Syn, SynAck

GossipMessage = Syn | SynAck | GossipAck | CompactSyn | CompactSynAck


class PeerState(StrEnum):
    """This node's own judgement of a peer; it is never gossiped."""

    UP = "up"
    DOWN = "down"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``message`` over the link to ``peer``."""

    peer: PeerId
    message: GossipMessage


@dataclass(frozen=True, slots=True)
class OriginReset:
    """Forget every record of ``origin``: it restarted, or was forgotten; more may follow."""

    origin: PeerId


@dataclass(frozen=True, slots=True)
class RecordsChanged:
    """New values, oldest first; a value of None is a deletion (perhaps of an unknown key)."""

    origin: PeerId
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class PeerUp:
    """The peer is alive."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerDown:
    """The peer is taken for dead, or left. ``reason`` is for people."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Disputed:
    """A peer held records of ours that we never wrote; we began a new incarnation above them.

    A clock set back across a restart does that, and so does a copied home or a forgery.
    """

    by: PeerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class Disbelieved:
    """A peer told of ``origin`` what cannot be, and was not believed; ``reason`` says what.

    The peer may have it from somebody else.
    """

    by: PeerId
    origin: PeerId
    reason: str


Effect = Send | OriginReset | RecordsChanged | PeerUp | PeerDown | Disputed | Disbelieved
