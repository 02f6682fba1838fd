"""When to look for a way through a relay, and through which one.

Nobody tells who has links with whom. So those to which this node has a link are asked in turn; one
that has no link to the peer says so at once. Pure: ``now`` is monotonic seconds.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX, RELAY_AFTER_S
from overlay.transport.dialling import Backoff

#: Relays that are asked about a peer between two calls of `Detours.due`, if all refuse at once.
_AT_ONCE: Final = 8
#: And about all peers together. Members can make up peers that are up, and each would have all
#: nodes ask all others. But a relay that dies may take as many links along.
_ASKED_MAX: Final = 64


@dataclass(slots=True)
class _Search:
    backoff: Backoff
    not_before: float
    tried: set[PeerId] = field(default_factory=set)
    #: Being tried now, or the link goes through it.
    relay: PeerId | None = None
    #: Relays asked since `Detours.due`, and since there was a link.
    asked: int = 0
    asked_in_all: int = 0
    #: There was a link through a relay, and none without since.
    found: bool = False


class Detours:
    """The peers that are sought, and how far the search has come."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._searches: dict[PeerId, _Search] = {}
        #: Relays that may be asked until `due`.
        self._left = 0

    def due(
        self,
        peers: Collection[PeerId],
        relays: Sequence[PeerId],
        now: float,
        relayed: Set[PeerId] = frozenset(),
    ) -> list[tuple[PeerId, PeerId]]:
        """Which peer to dial through which relay now.

        ``peers``: all that are up and to which there is no link. ``relays``: to which there is a
        direct one, the best first. ``relayed``: to which there is another.
        """
        for peer in self._searches.keys() - set(peers) - relayed:
            # Who is away for a while comes back to where only a relay reaches it.
            kept = self._searches[peer].found and len(self._searches) <= MEMBERS_MAX
            if peer in relays or not kept:
                del self._searches[peer]
            else:
                self._searches[peer].tried.clear()
        for peer in relayed:
            found = self._searches.setdefault(peer, _Search(Backoff(self._rng), now))
            found.backoff.reset()
            found.tried.clear()
            found.not_before, found.found, found.asked_in_all = now, True, 0
        self._left = _ASKED_MAX
        attempts = []
        for search, peer in self._in_turn(peers, now):
            search.asked = 0
            if search.relay is not None or now < search.not_before or not self._left:
                continue
            relay = self.go_on(peer, relays)
            if relay is not None:
                attempts.append((peer, relay))
            elif search.tried:
                search.tried.clear()
                search.not_before = now + search.backoff.pause_s()
        return attempts

    def _in_turn(self, peers: Collection[PeerId], now: float) -> list[tuple[_Search, PeerId]]:
        """Those first of whom the fewest relays know nothing, and of these, any."""
        for peer in peers:
            if peer not in self._searches:
                self._searches[peer] = _Search(Backoff(self._rng), now + RELAY_AFTER_S)
        turns = [(self._searches[peer], peer) for peer in sorted(peers)]
        self._rng.shuffle(turns)
        return sorted(turns, key=lambda turn: turn[0].asked_in_all)

    def go_on(self, peer: PeerId, relays: Iterable[PeerId]) -> PeerId | None:
        """The next relay to try now, if it is time for one; ``relays`` as in `due`."""
        search = self._searches.get(peer)
        if search is None or search.relay is not None or search.asked >= _AT_ONCE or not self._left:
            return None
        search.relay = next((each for each in relays if each not in search.tried), None)
        if search.relay is not None:
            search.asked += 1
            search.asked_in_all += 1
            self._left -= 1
        return search.relay

    def failed(self, peer: PeerId, relay: PeerId) -> None:
        """The attempt came to nothing, or the circuit broke: the next relay's turn."""
        search = self._searches.get(peer)
        if search is not None and search.relay == relay:
            search.tried.add(relay)
            search.relay = None
