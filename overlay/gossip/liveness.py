"""Which peers are UP: each node's own judgement, from signs of life and their absence."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from overlay.gossip.detector import PhiDetector
from overlay.gossip.effects import PeerDown, PeerState, PeerUp
from overlay.identity.peer_id import PeerId
from overlay.limits import PHI_DOWN

#: Phi that is enough once the link has broken.
PHI_LINK_LOST: Final = 2.0
#: New heartbeats by hearsay that make a peer UP. One may be the late echo of a dead peer.
HEARTBEATS_UP: Final = 2
#: Silences, in intervals, that no rhythm makes suspicious: usually, and once the link has broken.
UNSUSPICIOUS: Final = 3.0
UNSUSPICIOUS_LINK_LOST: Final = 1.0
#: While its link is up, which itself ends within seconds of silence. Anybody may tell of a
#: heartbeat so high that no true one is news after it, until the peer has heard of that and begins
#: a new incarnation (`overlay.gossip.hearsay.DISPUTE_ROUNDS`).
UNSUSPICIOUS_LINKED: Final = 20.0


class _Peer:
    def __init__(self, now: float, interval_s: float) -> None:
        self.state = PeerState.DOWN
        self.detector = PhiDetector(now, interval_s)
        self.heartbeats = 0
        self.link_lost_s: float | None = None


class Liveness:
    """States of all peers. An unknown peer is DOWN until it gives signs of life."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._peers: dict[PeerId, _Peer] = {}

    def state(self, peer: PeerId) -> PeerState:
        known = self._peers.get(peer)
        return known.state if known else PeerState.DOWN

    def up(self, peer: PeerId) -> bool:
        known = self._peers.get(peer)
        return known is not None and known.state is PeerState.UP

    def gone(self, peer: PeerId) -> bool:
        """Known, and not UP."""
        known = self._peers.get(peer)
        return known is not None and known.state is not PeerState.UP

    def peers(self) -> list[PeerId]:
        return list(self._peers)

    def silent(self, silent_s: float, now: float) -> set[PeerId]:
        """Who is not UP, and gave no sign of life (and was not first mentioned) for so long."""
        return {
            peer
            for peer, known in self._peers.items()
            if known.state is not PeerState.UP and now - known.detector.heard_s >= silent_s
        }

    def mentioned(self, peer: PeerId, now: float) -> None:
        """Somebody knows of the peer; that is no sign of life."""
        self._get(peer, now)

    def heartbeat(self, peer: PeerId, now: float) -> list[PeerUp]:
        """The peer's heartbeat counter advanced, by whichever way we heard of it."""
        known = self._get(peer, now)
        if known.state is PeerState.LEFT:
            return []
        if known.link_lost_s is not None and now - known.link_lost_s > 2 * self._interval_s:
            # No echo from before the break: the peer lives, only the link broke.
            known.link_lost_s = None
        if known.state is PeerState.UP:
            known.detector.heard(now)
            return []
        known.heartbeats += 1
        known.detector.resume(now)
        return self._up(peer, known) if known.heartbeats >= HEARTBEATS_UP else []

    def alive(self, peer: PeerId, now: float) -> list[PeerUp]:
        """The peer itself spoke, over a link."""
        known = self._get(peer, now)
        known.link_lost_s = None
        if known.state is PeerState.UP:
            known.detector.heard(now)
            return []
        known.detector.resume(now)
        return self._up(peer, known)

    def restarted(self, peer: PeerId, now: float) -> None:
        """A new incarnation: whoever left is back, once it gives signs of life."""
        known = self._get(peer, now)
        if known.state is PeerState.LEFT:
            known.state = PeerState.DOWN

    def link_lost(self, peer: PeerId, now: float) -> None:
        """The link broke: judge the silence that follows more sternly."""
        known = self._peers.get(peer)
        if known:
            known.link_lost_s = now

    def left(self, peer: PeerId, now: float) -> list[PeerDown]:
        """The peer said goodbye."""
        known = self._get(peer, now)
        was, known.state, known.heartbeats = known.state, PeerState.LEFT, 0
        return [PeerDown(peer, "it said goodbye")] if was is PeerState.UP else []

    def judge(self, now: float, linked: Container[PeerId] = ()) -> list[PeerDown]:
        """Find the peers that have been silent for too long. ``linked``: whose links are up."""
        found = []
        for peer, known in self._peers.items():
            broke = known.link_lost_s is not None
            silent_s = now - known.detector.heard_s
            unsuspicious = UNSUSPICIOUS_LINK_LOST if broke else UNSUSPICIOUS
            if peer in linked:
                unsuspicious = UNSUSPICIOUS_LINKED
            if known.state is not PeerState.UP or silent_s < unsuspicious * self._interval_s:
                continue
            phi = known.detector.phi(now, pause=not broke)
            if phi >= (PHI_LINK_LOST if broke else PHI_DOWN):
                known.state, known.heartbeats = PeerState.DOWN, 0
                why = ", its link broke" if broke else ""
                found.append(PeerDown(peer, f"no sign of life for {silent_s:.1f} s{why}"))
        return found

    def excuse(self, pause_s: float, now: float) -> None:
        """This node did not run for ``pause_s``."""
        for known in self._peers.values():
            if known.state is PeerState.UP:
                known.detector.excuse(pause_s, now)

    def forget(self, peer: PeerId) -> None:
        self._peers.pop(peer, None)

    def _get(self, peer: PeerId, now: float) -> _Peer:
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = _Peer(now, self._interval_s)
        return known

    def _up(self, peer: PeerId, known: _Peer) -> list[PeerUp]:
        known.state = PeerState.UP
        known.heartbeats = 0
        return [PeerUp(peer)]
