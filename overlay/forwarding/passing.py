"""How many requests of guests this node passes on, so that nobody takes it for a flood of its own.

Whom a request goes to holds it against the peer that brought it. Several guests, each within its
bounds, could so have a node banned by another: with requests that they take back at once.
"""

from __future__ import annotations

from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX, PASSED_ON_BURST, PASSED_ON_PER_S

_BURST_S: Final = PASSED_ON_BURST / PASSED_ON_PER_S


class Passing:
    """To each peer by itself. Times in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        #: When as many as at first may go to the peer again.
        self._full_at: dict[PeerId, float] = {}

    def may(self, peer: PeerId, now: float) -> bool:
        """Whether one more may go to the peer."""
        return self._full_at.get(peer, now) - now < _BURST_S

    def passed(self, peer: PeerId, now: float) -> None:
        """One goes to the peer."""
        full_at = max(now, self._full_at.pop(peer, now)) + 1 / PASSED_ON_PER_S
        if len(self._full_at) >= MEMBERS_MAX:
            del self._full_at[next(iter(self._full_at))]
        self._full_at[peer] = full_at
