"""What a node's log says of its mesh."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from overlay.complaints import Complaints
from overlay.effects import Unreadable
from overlay.errors import HearthError, listed
from overlay.forwarding import effects as fwd
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.gossip import effects as gsp
from overlay.identity.branches import Lineage
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocation
from overlay.recent import Recent

log = logging.getLogger(__name__)

#: Models of peers that are remembered as told of; of more than that, each may be told of again.
_WARNED_MAX: Final = 4096


class MeshLog:
    """Calls peers by the names that the ``neighbourhood`` knows.

    ``is_member``: whether a peer is known to be a member. Of who may be made up it is not said that
    they come and go: there may be any number of them. ``lineage``: who let a peer in, as others
    tell; the ``neighbourhood`` knows what it says itself.
    """

    def __init__(
        self,
        neighbourhood: Neighbourhood,
        is_member: Callable[[PeerId], bool],
        lineage: Callable[[PeerId], Lineage | None],
    ) -> None:
        self._neighbourhood = neighbourhood
        self._is_member = is_member
        self._lineage = lineage
        self._complaints = Complaints()
        #: Peers, and models of theirs, that tokenize unlike this node; said once.
        self._warned_of: Recent[tuple[PeerId, str], None] = Recent(_WARNED_MAX)

    def tell(
        self,
        news: gsp.PeerUp | gsp.PeerDown | gsp.Disputed | gsp.Disbelieved | Unreadable | fwd.Noticed,
        now: float,
    ) -> None:
        name_of = self._neighbourhood.name_of
        match news:
            case gsp.PeerUp(peer=peer) | gsp.PeerDown(peer=peer) if not self._is_member(peer):
                pass
            case gsp.PeerUp(peer=peer):
                log.info("%s is UP", name_of(peer))
            case gsp.PeerDown(peer=peer, reason=reason):
                log.info("%s is DOWN: %s", name_of(peer), reason)
            case gsp.Disputed(by=peer, incarnation=incarnation):
                self._complain(
                    peer,
                    "held records of this node that it never wrote",
                    "a copied home, a clock set back, or a forgery? It goes on as incarnation "
                    f"{incarnation}",
                    now,
                )
            case gsp.Disbelieved(by=peer, origin=origin, reason=reason):
                # Whom it tells of, it can make up: that makes no new matter.
                told = f"about {origin} it told of {reason}"
                self._complain(peer, "is not believed", told, now)
            case Unreadable(origin=origin, by=peer, reason=reason):
                told = f"of {origin}: {reason}"
                self._complain(peer or "somebody", "told of malformed records", told, now)
            case fwd.Noticed(peer=peer, matter=matter, detail=detail):
                self._complain(peer, matter, detail, now)

    def revoked(self, revocation: Revocation) -> None:
        """Somebody else's membership has ended."""
        log.warning("%s", revocation.told(self._named))

    def outcast(self, revocation: Revocation) -> None:
        """This node's own has, or that of somebody through whom it joined."""
        log.error(
            "%s: this node is on its own now. A new invite brings it back: hearth join TOKEN",
            revocation.told(self._named),
        )

    def _named(self, peer: PeerId) -> str:
        """Names are of their bearers' own making, so the PeerId stands beside them."""
        if peer == self._neighbourhood.me:
            return "this node"
        name = self._neighbourhood.name_of(peer)
        return str(peer) if name == peer.short else f"{name} ({peer})"

    def _complain(self, name: PeerId | str, matter: str, detail: str, now: float) -> None:
        head = name
        if isinstance(name, PeerId):
            neighbour = self._neighbourhood.neighbours.get(name)
            lineage = (neighbour and neighbour.lineage) or self._lineage(name) or ()
            head = (*lineage, name)[0]
        self._complaints.about(name, matter, detail, now, head=head)

    def misled(self, by: str, error: HearthError, now: float) -> None:
        """Whoever that is, a stranger even, shows a revocation that is none."""
        matter = "refuses to link, for a revocation that is none"
        self._complaints.about(by, matter, str(error), now)

    def warn_of_all_unlike(self, now: float) -> None:
        """This node's models changed: say which peers tokenize unlike it."""
        for peer in dict.fromkeys(peer for peer, _ in self._neighbourhood.unlike()):
            self.warn_of_unlike(peer, now)

    def warn_of_unlike(self, peer: PeerId, now: float) -> None:
        """Say so if the peer tokenizes unlike this node; it may tell of ever new models."""
        models = self._neighbourhood.models_unlike(peer)
        new = [model for model in models if (peer, model) not in self._warned_of]
        for model in new:
            self._warned_of.put((peer, model), None)
        if new:
            self._complain(
                peer,
                "tokenizes unlike this node",
                f"{listed(new)} of {self._neighbourhood.name_of(peer)}, which the two have in "
                "common: its cache is not used; run the same version of Hearth and llama.cpp on "
                "both",
                now,
            )
