"""How many requests of guests this node passes on, so that nobody takes it for a flood of its own.

Whom a request goes to holds it against the peer that brought it. Several guests, each within its
bounds, could so have a node banned by another: with requests that they take back at once.
"""

from __future__ import annotations

from overlay.bucket import Bucket
from overlay.errors import Overloaded
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    FORWARD_MESSAGES,
    MEMBERS_MAX,
    PASSED_ON_BURST,
    PASSED_ON_PER_S,
)
from overlay.recent import Recent
from overlay.wire.messages import Forward
from overlay.wire.weight import weight


def enough_passed_on() -> Overloaded:
    """What a guest is told whose request could go to somebody, who has enough of this node's."""
    return Overloaded(
        "a friend's node passes on no more requests of guests now: ask elsewhere, or wait for one "
        "of them to end"
    )


class Passing:
    """To each peer by itself. Times in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._buckets: Recent[PeerId, Bucket] = Recent(MEMBERS_MAX)

    def may(self, peer: PeerId, now: float) -> bool:
        """Whether one more may go to the peer."""
        bucket = self._buckets.get(peer)
        return bucket is None or not bucket.wait_s(now)

    def passed(self, peer: PeerId, forward: Forward, now: float) -> None:
        """One goes to the peer, where it weighs more than others if it has more parts."""
        bucket = self._buckets.get(peer) or Bucket(PASSED_ON_PER_S, PASSED_ON_BURST, now)
        bucket.take(weight(forward) / FORWARD_MESSAGES, now)
        self._buckets.put(peer, bucket)
