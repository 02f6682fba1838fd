"""What peers say of themselves over their own links, which nobody can say in their place."""

from __future__ import annotations

from collections.abc import Sequence

from overlay.identity.peer_id import PeerId
from overlay.wire.anti_entropy import DigestEntry


class OwnWords:
    """Of which incarnation each peer with a link is, once it has said so, and what it can read."""

    def __init__(self) -> None:
        #: 0: it has not said yet.
        self._incarnations: dict[PeerId, int] = {}
        #: Those of an older version of the protocol.
        self._plain: set[PeerId] = set()

    def __contains__(self, peer: object) -> bool:
        """Whether the peer has a link."""
        return peer in self._incarnations

    def linked(self, peer: PeerId, *, compact: bool = True) -> None:
        """``compact``: its Hello says that it reads compact digests."""
        self.unlinked(peer)
        self._incarnations[peer] = 0
        if not compact:
            self._plain.add(peer)

    def unlinked(self, peer: PeerId) -> None:
        self._incarnations.pop(peer, None)
        self._plain.discard(peer)

    def reads_compact(self, peer: PeerId) -> bool:
        """Whether the peer may be sent a compact digest."""
        return peer not in self._plain

    def hear(self, peer: PeerId, digest: Sequence[DigestEntry]) -> int | None:
        """The incarnation that ``peer`` says it is; None: its digest does not begin with itself."""
        if peer not in self or not digest or digest[0].origin != peer:
            return None
        incarnation = self._incarnations[peer] = digest[0].incarnation
        return incarnation

    def contradict(self, sender: PeerId, origin: PeerId, incarnation: int) -> bool:
        """Whether ``sender`` tells of a later incarnation of ``origin`` than that does itself."""
        return sender != origin and 0 < self._incarnations.get(origin, 0) < incarnation
