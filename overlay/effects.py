"""What a `Member` wants done, and what it tells; its driver carries it out in order."""

from __future__ import annotations

from dataclasses import dataclass

from overlay.forwarding import effects as fwd
from overlay.gossip import effects as gsp
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocation


@dataclass(frozen=True, slots=True)
class Meet:
    """A peer told where it may be reached (perhaps nowhere): keep a link to it."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...]


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """What is known of the peer's name, addresses or models may have changed."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Records of ``origin`` are malformed; ``by`` told of them, and may have them from others.

    ``by`` None: some time ago, by whom is not known. ``reason`` is for people.
    """

    origin: PeerId
    by: PeerId | None
    reason: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """News: keep ``record``, pass it on over all links, end links with those whose chain is void.

    This node's own chain may be among them.
    """

    revocation: Revocation
    record: bytes


@dataclass(frozen=True, slots=True)
class Outcast:
    """The peer is no member any more: unless it has a link, do not dial it, and `exclude` it."""

    peer: PeerId


#: PeerUp, PeerDown, Disputed, Disbelieved, Unreadable and Noticed only tell: there is nothing to
#: carry out.
Effect = (
    fwd.Effect
    | Meet
    | PeerChanged
    | Revoked
    | Outcast
    | gsp.PeerUp
    | gsp.PeerDown
    | gsp.Disputed
    | gsp.Disbelieved
    | Unreadable
)
