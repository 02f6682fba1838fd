"""How many requests of guests this node passes on, so that nobody takes it for a flood of its own.

Whom a request goes to holds it against the peer that brought it. Several guests, each within its
bounds, could so have a node banned by another: with requests that they take back at once. Or one
could take all the places that this node has there, and leave none to its owner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from overlay.bucket import Bucket
from overlay.errors import Overloaded
from overlay.forwarding.job import Job
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    FORWARD_MESSAGES,
    MEMBERS_MAX,
    PASSED_ON_BURST,
    PASSED_ON_OPEN_MAX,
    PASSED_ON_PER_S,
)
from overlay.recent import Recent
from overlay.routing.cost import Candidate
from overlay.wire.messages import Forward
from overlay.wire.weight import weight


class Passing:
    """To each peer by itself. Times in seconds, of one monotonic clock."""

    def __init__(self, jobs: Mapping[bytes, Job]) -> None:
        """``jobs``: those that are not over yet."""
        self._jobs = jobs
        self._buckets: Recent[PeerId, Bucket] = Recent(MEMBERS_MAX)

    def allowed(self, found: Sequence[Candidate], now: float) -> list[Candidate]:
        """Those who may get one more of a guest's; this node may in any case."""
        there = Counter(job.downstream for job in self._jobs.values() if job.upstream is not None)
        return [
            c
            for c in found
            if c.is_self or (there[c.peer] < PASSED_ON_OPEN_MAX and not self._wait_s(c.peer, now))
        ]

    def passed(self, peer: PeerId, forward: Forward, now: float) -> None:
        """One goes to the peer, where it weighs more than others if it has more parts."""
        bucket = self._buckets.get(peer) or Bucket(PASSED_ON_PER_S, PASSED_ON_BURST, now)
        bucket.take(weight(forward) / FORWARD_MESSAGES, now)
        self._buckets.put(peer, bucket)

    def _wait_s(self, peer: PeerId, now: float) -> float:
        bucket = self._buckets.get(peer)
        return 0.0 if bucket is None else bucket.wait_s(now)


def enough_passed_on() -> Overloaded:
    """What a guest is told whose request could go to somebody, who has enough of this node's."""
    return Overloaded(
        "a friend's node passes on no more requests of guests now: ask elsewhere, or wait for one "
        "of them to end"
    )
