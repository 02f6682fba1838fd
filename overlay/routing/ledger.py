"""Optimistic bookkeeping: work that this node sent to a peer since the peer's last news.

Load travels once per gossip round. Without this, every request of one round would see the same
idle peer and go there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from overlay.identity.peer_id import PeerId
from overlay.limits import GOSSIP_INTERVAL_S

#: An entry loses half of its weight in this time: the peer is computing it.
HALF_LIFE_S: Final = 5.0
#: An entry is forgotten after this many half-lives, should nobody settle it.
_HALF_LIVES_MAX = 8
#: News describe the peer as it was up to a round and a flight ago: younger entries outlive them.
NEWS_LAG_S: Final = 1.5 * GOSSIP_INTERVAL_S


class Pending(NamedTuple):
    """What to add to a peer's last known load."""

    prefill_tokens: int
    requests: int


class _Entry(NamedTuple):
    uncached_tokens: int
    sent_s: float


_NOTHING: Final = Pending(0, 0)


class Ledger:
    """Requests sent and not yet settled, by id."""

    def __init__(self) -> None:
        #: By peer, each with its requests; every request has one peer.
        self._sent: dict[PeerId, dict[bytes, _Entry]] = {}
        self._where: dict[bytes, PeerId] = {}

    def dispatched(self, peer: PeerId, request_id: bytes, uncached_tokens: int, now: float) -> None:
        """A request went to ``peer``; it must compute ``uncached_tokens`` prompt tokens first."""
        self.settled(request_id)
        self._where[request_id] = peer
        self._sent.setdefault(peer, {})[request_id] = _Entry(uncached_tokens, now)

    def settled(self, request_id: bytes) -> None:
        """The request is over, or went elsewhere. Unknown ids are ignored."""
        peer = self._where.pop(request_id, None)
        if peer is not None:
            entries = self._sent[peer]
            del entries[request_id]
            if not entries:
                del self._sent[peer]

    def news(self, peer: PeerId, now: float) -> None:
        """The peer's load arrived: it tells of everything sent long enough before."""
        self._forget(peer, now - NEWS_LAG_S)

    def pending(self, peer: PeerId, now: float) -> Pending:
        """The peer's work that its last news do not tell of."""
        if peer not in self._sent:
            return _NOTHING
        self._forget(peer, now - _HALF_LIVES_MAX * HALF_LIFE_S)
        entries = self._sent.get(peer, {}).values()
        tokens = sum(e.uncached_tokens * 0.5 ** ((now - e.sent_s) / HALF_LIFE_S) for e in entries)
        return Pending(round(tokens), len(entries))

    def _forget(self, peer: PeerId, until_s: float) -> None:
        """Forget what was sent to the peer until then."""
        for request_id, entry in list(self._sent.get(peer, {}).items()):
            if entry.sent_s <= until_s:
                self.settled(request_id)
