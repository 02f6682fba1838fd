"""What a node's log says of its mesh."""

from __future__ import annotations

import logging

from overlay.forwarding import effects as fwd
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.gossip import effects as gsp
from overlay.identity.peer_id import PeerId
from overlay.member import Unreadable
from overlay.transport.complaints import Complaints

log = logging.getLogger(__name__)


class MeshLog:
    """Calls peers by the names that the ``neighbourhood`` knows."""

    def __init__(self, neighbourhood: Neighbourhood) -> None:
        self._neighbourhood = neighbourhood
        self._complaints = Complaints()
        #: Peers, and models of theirs, that tokenize unlike this node; said once.
        self._warned_of: set[tuple[PeerId, str]] = set()

    def tell(
        self,
        news: gsp.PeerUp | gsp.PeerDown | gsp.Disputed | gsp.Disbelieved | Unreadable | fwd.Noticed,
        now: float,
    ) -> None:
        name_of = self._neighbourhood.name_of
        match news:
            case gsp.PeerUp(peer=peer):
                log.info("%s is UP", name_of(peer))
            case gsp.PeerDown(peer=peer, reason=reason):
                log.info("%s is DOWN: %s", name_of(peer), reason)
            case gsp.Disputed(by=peer, incarnation=incarnation):
                self._complaints.about(
                    peer,
                    "held records of this node that it never wrote",
                    "a copied home, a clock set back, or a forgery? It goes on as incarnation "
                    f"{incarnation}",
                    now,
                )
            case gsp.Disbelieved(by=peer, origin=origin, reason=reason):
                self._complaints.about(
                    peer, f"is not believed about {origin}", f"it told of {reason}", now
                )
            case Unreadable(origin=origin, by=peer, reason=reason):
                self._complaints.about(peer, f"told of malformed records of {origin}", reason, now)
            case fwd.Noticed(peer=peer, matter=matter, detail=detail):
                self._complaints.about(peer, matter, detail, now)

    def warn_of_unlike(self) -> None:
        """Say which peers tokenize unlike this node."""
        for peer, model in self._neighbourhood.unlike():
            if (peer, model) not in self._warned_of:
                self._warned_of.add((peer, model))
                log.warning(
                    "%s (%s) tokenizes %s unlike this node, though it is the same model: its cache "
                    "is not used; run the same version of Hearth and llama.cpp on both",
                    self._neighbourhood.name_of(peer),
                    peer,
                    model,
                )
