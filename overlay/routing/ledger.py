"""Optimistic bookkeeping: work that this node placed somewhere since it last heard from there.

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
#: News describe a peer as it was up to a round ago, and arrive in the middle of the next one; the
#: request's own flight comes to that.
NEWS_LAG_S: Final = 1.5 * GOSSIP_INTERVAL_S
#: This node's engines take a request in within this time.
OWN_NEWS_LAG_S: Final = 0.1


class Pending(NamedTuple):
    """What to add to a node's last known load."""

    prefill_tokens: int
    requests: int
    #: Of the tokens, guests'.
    guest_tokens: int


class _Entry(NamedTuple):
    uncached_tokens: int
    sent_s: float
    #: News from then on tell of it.
    told_s: float
    guest: bool


_NOTHING: Final = Pending(0, 0, 0)


class Ledger:
    """Requests placed and not yet settled, by id."""

    def __init__(self) -> None:
        #: By peer, each with its requests; every request has one peer.
        self._sent: dict[PeerId, dict[bytes, _Entry]] = {}
        self._where: dict[bytes, PeerId] = {}

    def dispatched(
        self,
        peer: PeerId,
        request_id: bytes,
        uncached_tokens: int,
        now: float,
        *,
        guest: bool,
        lag_s: float,
    ) -> None:
        """A request went to ``peer``, which must compute ``uncached_tokens`` prompt tokens first.

        ``lag_s``: how long the peer's news may not tell of it yet. ``guest``: it is of a guest.
        """
        self.settled(request_id)
        self._where[request_id] = peer
        entry = _Entry(uncached_tokens, now, now + lag_s, guest)
        self._sent.setdefault(peer, {})[request_id] = entry

    def answering(self, request_id: bytes) -> None:
        """The request's answer has begun, so its prompt is computed."""
        peer = self._where.get(request_id)
        if peer is not None:
            entries = self._sent[peer]
            entries[request_id] = entries[request_id]._replace(uncached_tokens=0)

    def settled(self, request_id: bytes) -> None:
        """The request is over, or went elsewhere. Unknown ids are ignored."""
        peer = self._where.pop(request_id, None)
        if peer is not None:
            entries = self._sent[peer]
            del entries[request_id]
            if not entries:
                del self._sent[peer]

    def news(self, peer: PeerId, now: float) -> None:
        """The peer's load arrived: it tells of everything placed there long enough before."""
        for request_id, entry in list(self._sent.get(peer, {}).items()):
            if entry.told_s <= now:
                self.settled(request_id)

    def pending(self, peer: PeerId, now: float) -> Pending:
        """The peer's work that its last news do not tell of."""
        if peer not in self._sent:
            return _NOTHING
        tokens, guest_tokens, requests = 0.0, 0.0, 0
        for request_id, entry in list(self._sent[peer].items()):
            half_lives = (now - entry.sent_s) / HALF_LIFE_S
            if half_lives >= _HALF_LIVES_MAX:
                self.settled(request_id)
                continue
            weight = 0.5**half_lives * entry.uncached_tokens
            tokens += weight
            guest_tokens += weight * entry.guest
            requests += 1
        return Pending(round(tokens), requests, round(guest_tokens))
