"""When to look for a way through a relay, and through which one.

Nobody tells who has links with whom. So those to which this node has a link are asked in turn; one
that has no link to the peer says so at once. Pure: ``now`` is monotonic seconds.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from overlay.identity.peer_id import PeerId
from overlay.limits import RELAY_AFTER_S
from overlay.transport.dialling import Backoff


@dataclass(slots=True)
class _Search:
    backoff: Backoff
    not_before: float
    tried: set[PeerId] = field(default_factory=set)
    #: Being tried now.
    relay: PeerId | None = None


class Detours:
    """The peers that are sought, and how far the search has come."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._searches: dict[PeerId, _Search] = {}

    def due(
        self, peers: Collection[PeerId], relays: Sequence[PeerId], now: float
    ) -> list[tuple[PeerId, PeerId]]:
        """Which peer to dial through which relay now.

        ``peers``: all that are up and to which there is no link. ``relays``: the best one first.
        """
        for found in self._searches.keys() - set(peers):
            del self._searches[found]
        attempts = []
        for peer in sorted(peers):
            search = self._searches.get(peer)
            if search is None:
                search = _Search(Backoff(self._rng), now + RELAY_AFTER_S)
                self._searches[peer] = search
            if search.relay is not None or now < search.not_before:
                continue
            search.relay = next((each for each in relays if each not in search.tried), None)
            if search.relay is not None:
                attempts.append((peer, search.relay))
            elif search.tried:
                search.tried.clear()
                search.not_before = now + search.backoff.pause_s()
        return attempts

    def failed(self, peer: PeerId, relay: PeerId) -> None:
        """The attempt came to nothing, or the circuit broke: the next relay's turn."""
        search = self._searches.get(peer)
        if search is not None and search.relay == relay:
            search.tried.add(relay)
            search.relay = None
