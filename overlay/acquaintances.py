"""Whom a node dials: the members that it has met, and not those that are members no more."""

from __future__ import annotations

from collections.abc import Sequence

from overlay.gossip.gossip import Gossip
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX
from overlay.recent import Recent
from overlay.transport.transport import Transport


class Acquaintances:
    """No more of either than there are members: whoever may invite can make up any number."""

    def __init__(self, transport: Transport, gossip: Gossip) -> None:
        self._transport = transport
        self._gossip = gossip
        self._met: dict[PeerId, tuple[Multiaddr, ...]] = {}
        #: Who was a member until its revocation was heard of, the latest ones.
        self.excluded: Recent[PeerId, None] = Recent(MEMBERS_MAX)

    def meet(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        """Keep a link to a peer that is known from elsewhere (a token, the peers of last time)."""
        if addresses and self._has_room_for(peer):
            self._met[peer] = tuple(addresses)
            self._transport.dial(peer, addresses)

    def found_on_lan(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        """Try what was announced first, and keep the rest: an announcement may be an old one."""
        if peer in self.excluded:
            return
        if self._has_room_for(peer):
            known = self._met.setdefault(peer, ())
            self._transport.dial(peer, tuple(dict.fromkeys((*addresses, *known))))

    def exclude(self, peer: PeerId) -> None:
        """It is no member any more."""
        self.excluded.put(peer, None)
        self._met.pop(peer, None)
        self._transport.hang_up(peer, "it is no member any more")

    def readmit(self, peer: PeerId) -> None:
        """It is a member after all, or again."""
        self.excluded.pop(peer, None)

    def part(self, reason: str) -> None:
        """Have nothing to do with anybody any more."""
        for peer in {*self._met, *self._transport.links()}:
            self._transport.hang_up(peer, reason)
        self._met.clear()

    def _has_room_for(self, peer: PeerId) -> bool:
        """Of too many, one gives way that has no link, and of which nothing is known any more."""
        if peer in self._met or len(self._met) < MEMBERS_MAX:
            return True
        known = self._gossip.states().keys() | self._transport.links().keys()
        lost = next((each for each in self._met if each not in known), None)
        if lost is None:
            return False
        del self._met[lost]
        self._transport.hang_up(lost, "others were met since")
        return True
