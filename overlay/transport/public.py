"""Where this node can be reached besides the addresses that it listens on: at its router's.

Peers tell the host that they see a node's connections come from. If the router passes on what
comes to the port that the node listens on, that is an address of the node. To find out, it asks
such a peer to dial it back there. Pure: ``now`` is monotonic seconds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from overlay.errors import Malformed
from overlay.identity.branches import Turns, Way
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import ADDRESSES_MAX, DIAL_BACK_INTERVAL_S


def seen_at(remote: str) -> Multiaddr | None:
    """Where a peer dials from, as this end of its TCP connection (``host:port``) tells."""
    host, _, port = remote.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
        return Multiaddr.of(str(ip), int(port))
    except (ValueError, Malformed):
        return None


class PublicAddresses:
    """Which addresses peers have confirmed, and whom to ask to confirm one."""

    def __init__(self) -> None:
        #: When each was last asked.
        self._asked = Turns()
        self._checked: dict[Multiaddr, float] = {}
        #: Under way, by whom was asked; and whose branch that is.
        self._open: dict[PeerId, tuple[Multiaddr, PeerId]] = {}
        #: Until when each is believed, and by whose branch.
        self._confirmed: dict[Multiaddr, tuple[float, PeerId]] = {}

    def due(
        self, seen: Mapping[Way, Multiaddr], own: Sequence[Multiaddr], now: float
    ) -> list[tuple[PeerId, int]]:
        """Whom to ask to dial back, and at which port.

        ``seen``: where peers that this node dialled see it. ``own``: what it is known to listen on.
        """
        for gone in self._open.keys() - {way[-1] for way in seen}:
            del self._open[gone]
        self._checked = {
            each: at for each, at in self._checked.items() if now < at + DIAL_BACK_INTERVAL_S
        }
        ports = sorted({each.port for each in own if not each.is_loopback})
        found = []
        candidates = {
            host: [
                candidate
                for candidate in (Multiaddr.of(host, port) for port in ports)
                if candidate not in own and not candidate.is_loopback
            ]
            for host in {address.host for address in seen.values()}
        }
        for way in self._asked.of(seen):
            wanted = [c for c in candidates[seen[way].host] if c not in self._checked]
            if wanted and now >= self._asked.latest(way) + DIAL_BACK_INTERVAL_S:
                self._checked[wanted[0]] = now
                self._asked.take(way, now)
                self._open[way[-1]] = wanted[0], way[0]
                found.append((way[-1], wanted[0].port))
        return found

    def answered(self, peer: PeerId, port: int, reached: bool, now: float) -> None:
        """The peer has dialled back, or tried to. One that did not get through proves nothing."""
        address, head = self._open.pop(peer, (None, peer))
        if address is None or address.port != port or not reached:
            return
        believed = {each: its for each, its in self._confirmed.items() if now < its[0]}
        # Of another family, perhaps. More of one branch would be there for what is not so.
        others = [its[1] for each, its in believed.items() if each != address]
        if len(others) < ADDRESSES_MAX // 2 and others.count(head) < ADDRESSES_MAX // 4:
            believed[address] = now + 3 * DIAL_BACK_INTERVAL_S, head
        self._confirmed = believed

    def confirmed(self, now: float) -> tuple[Multiaddr, ...]:
        """The addresses to tell others."""
        return tuple(sorted(each for each, (until, _) in self._confirmed.items() if now < until))
