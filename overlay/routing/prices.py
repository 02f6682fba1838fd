"""What a node's time and memory are worth to everybody who shares it.

A request that computes what somebody has cached takes time from all who come to that machine
later, and cells from prefixes that are asked for again. Neither shows in its own time to first
token. In an M/G/1 queue a machine that is busy a share b of its time makes every second of work
cost others b / (1 - b) seconds of waiting (the busy period that follows it), so a second of work
costs 1 / (1 - b) in all. Memory has no such law: its price rises with the share of blocks that
were needed again and that nobody had kept.

A few looks at each machine tell b. If all are mostly idle, it is chance that tells one from the
others, and a dear memory would make seconds of it; so the less busy they are on average, the more
they are taken to be alike. The weight of what was seen is that of credibility theory (Bühlmann
1967): the variance among machines by the sum of that and the variance of what few looks tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.routing.cost import BUSY_MAX, Candidate

#: What was seen of a node loses half of its weight in this time: loads change in minutes.
HALF_LIFE_S: Final = 30.0
#: One look, after a long time without any, tells no more than this share of the truth.
LOOK_MAX: Final = 0.2
#: So many looks at a machine count, as the older ones fade. Loads of machines are taken to differ
#: by as much as they are.
LOOKS: Final = 10
#: Caches lose everything at worst, and work must be done at any price.
LOST_MAX: Final = 0.8
ALPHA_MAX: Final = 40.0
#: How often a prefix that is asked for once more is asked for after that, at least.
USES_EXPECTED: Final = 2.0
#: Where machines are busy this share of their time on average, copies are priced by what others
#: could keep in their room. Where nobody waits, what they drive out is computed again in no time of
#: anybody's.
COPIES_DEAR_AT: Final = 0.02
#: What a second that nobody else needs is worth all the same: it takes power. A copy is computed
#: in such time alone.
SPARE_WORTH: Final = 0.1


def memory_price(lost_shares: Sequence[float]) -> float:
    """The price of a cell where nodes lose such shares of what they compute: at least 1.

    Of the median, for a share is what its node says, and some may say anything.
    """
    return float((1 - min(LOST_MAX, median(lost_shares))) ** -2)


def copy_worth(memory: float) -> float:
    """What a copy that spares a way of one second is worth, in seconds of its computation.

    It spares the way as often as it is expected to be used; its own room and power are dear. With
    more than a second for each that it takes, it would be worth fetching if it were not here.
    """
    return (1 + USES_EXPECTED) / (memory * (memory - 1 + SPARE_WORTH))


class Prices:
    """As seen by one node, from its candidates at each decision."""

    def __init__(self) -> None:
        self._busy: dict[PeerId, float] = {}
        self._mean = 0.0
        self._seen_s = 0.0
        #: The price of a cell: 1 while nothing is lost that is needed again.
        self.memory = 1.0

    def seen(self, candidates: Sequence[Candidate], now: float) -> None:
        """The candidates of a decision at ``now`` (seconds), which never goes back."""
        keep = 0.5 ** ((now - self._seen_s) / HALF_LIFE_S)
        self._seen_s = now
        # Those that are not here any more are forgotten.
        look = min(LOOK_MAX, 1 - keep)
        self._busy = {
            c.peer: look * (c.pending_prefill_tokens > 0) + keep * self.busy(c.peer)
            for c in candidates
        }
        self._mean = fmean(self._busy.values())
        self.memory = memory_price([c.lost_share for c in candidates])

    @property
    def room(self) -> float:
        """The price of a cell that a copy takes: that of memory, unless nobody ever waits."""
        return float(self.memory ** min(1.0, self._mean / COPIES_DEAR_AT))

    def busy(self, peer: PeerId) -> float:
        """The share of its time in which the peer has prompts to compute, from 0 to 1."""
        return self._busy.get(peer, 0.0)

    def alpha(self, peer: PeerId) -> float:
        """What a second of the peer's time is worth, in seconds: 1 where nobody waits."""
        return min(ALPHA_MAX, self.memory / (1 - min(BUSY_MAX, self._likely_busy(peer))))

    def _likely_busy(self, peer: PeerId) -> float:
        """The share of its time, as far as it is not likely to be chance."""
        weight = self._mean / (self._mean + (1 - self._mean) / LOOKS)
        return self._mean + weight * (self.busy(peer) - self._mean)
