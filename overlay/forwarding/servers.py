"""Which peers serve a model of some name, kept for the names that were asked for lately.

Nodes decide all the time, and cards come all the time, also of origins that a member makes up:
neither takes a look at every peer.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from operator import itemgetter
from typing import Final

from models.engine import ModelInfo, goes_by
from overlay.forwarding.neighbour import Neighbour
from overlay.gossip.records import Card, ModelCard
from overlay.identity.peer_id import PeerId
from overlay.recent import Recent

#: Names of models whose servers are remembered. A peer may ask for any.
_NAMES_ASKED_MAX: Final = 16

#: A peer, its model's card, and whether it tokenizes unlike ours of the same key.
Server = tuple[PeerId, ModelCard, bool]


class Servers:
    """Of the ``peers``, as their cards say; ``local`` finds the model here that has a name."""

    def __init__(
        self, peers: Mapping[PeerId, Neighbour], local: Callable[[str], ModelInfo | None]
    ) -> None:
        self._peers = peers
        self._local = local
        self._asked: Recent[str, list[Server]] = Recent(_NAMES_ASKED_MAX)

    def of(self, model: str) -> list[Server]:
        """Peers that serve a model of this name, reachable or not, in order.

        Where some have one that is called so, those are none whose model is but also called so.
        """
        servers = self._asked.get(model)
        if servers is None:
            found = (self._server(model, peer) for peer in sorted(self._peers))
            servers = [server for server in found if server is not None]
            self._asked.put(model, servers)
        return [server for server in servers if server[1].name == model] or servers

    def awaited_since(self, model: str, exclude: Collection[PeerId], key: bytes | None) -> float:
        """Since when the latest of those is awaited that can soon be asked; -inf: none is.

        ``exclude``: those do not count. ``key``: only the model of that key does.
        """
        awaited = (
            self._peers[peer].awaited_since
            for peer, card, differs in self.of(model)
            if peer not in exclude and key in (None, card.key) and not (key and differs)
        )
        return max(awaited, default=-math.inf)

    def card_changed(self, peer: PeerId) -> None:
        """The peer has another card now, or none."""
        for model, servers in self._asked.items():
            at = bisect_left(servers, peer, key=itemgetter(0))
            if at < len(servers) and servers[at][0] == peer:
                del servers[at]
            server = self._server(model, peer)
            if server is not None:
                servers.insert(at, server)

    def local_changed(self) -> None:
        """Other models are served here now."""
        self._asked.clear()

    def _server(self, model: str, peer: PeerId) -> Server | None:
        told = self._peers.get(peer)
        card = model_named(told.card, model) if told is not None and told.card else None
        if card is None:
            return None
        local = self._local(model)
        return peer, card, local is not None and unlike(local, card)


def model_named(card: Card, name: str) -> ModelCard | None:
    """The model of a card that has this name, or is also called so."""
    for model in card.models:
        if goes_by(name, model.name, model.aliases):
            return model
    return None


def unlike(info: ModelInfo, card: ModelCard) -> bool:
    """Whether a peer's model has the key of ours and yet cuts the probes into other tokens."""
    told = info.probe and card.probe
    return bool(told) and info.key == card.key and info.probe != card.probe
