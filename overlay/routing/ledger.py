"""Optimistic bookkeeping: work that this node sent to a peer since the peer's last news.

Load travels once per gossip round. Without this, every request of one round would see the same
idle peer and go there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.limits import GOSSIP_INTERVAL_S

#: An entry loses half of its weight in this time: the peer is computing it.
HALF_LIFE_S: Final = 5.0
#: An entry is forgotten after this many half-lives, should nobody settle it.
_HALF_LIVES_MAX = 8
#: News describe the peer as it was up to a round and a flight ago: younger entries outlive them.
NEWS_LAG_S: Final = 1.5 * GOSSIP_INTERVAL_S


@dataclass(frozen=True, slots=True)
class Pending:
    """What to add to a peer's last known load."""

    prefill_tokens: int
    requests: int


@dataclass(frozen=True, slots=True)
class _Entry:
    peer: PeerId
    uncached_tokens: int
    sent_s: float


class Ledger:
    """Requests sent and not yet settled, by id."""

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}

    def dispatched(self, peer: PeerId, request_id: bytes, uncached_tokens: int, now: float) -> None:
        """A request went to ``peer``; it must compute ``uncached_tokens`` prompt tokens first."""
        self._forget_old(now)
        self._entries[request_id] = _Entry(peer, uncached_tokens, now)

    def settled(self, request_id: bytes) -> None:
        """The request is over, or went elsewhere. Unknown ids are ignored."""
        self._entries.pop(request_id, None)

    def news(self, peer: PeerId, now: float) -> None:
        """The peer's load arrived: it tells of everything sent long enough before."""
        for request_id, entry in list(self._entries.items()):
            if entry.peer == peer and now - entry.sent_s >= NEWS_LAG_S:
                del self._entries[request_id]

    def pending(self, peer: PeerId, now: float) -> Pending:
        """The peer's work that its last news do not tell of."""
        self._forget_old(now)
        entries = [e for e in self._entries.values() if e.peer == peer]
        tokens = sum(e.uncached_tokens * 0.5 ** ((now - e.sent_s) / HALF_LIFE_S) for e in entries)
        return Pending(round(tokens), len(entries))

    def _forget_old(self, now: float) -> None:
        oldest = now - _HALF_LIVES_MAX * HALF_LIFE_S
        for request_id, entry in list(self._entries.items()):
            if entry.sent_s < oldest:
                del self._entries[request_id]
