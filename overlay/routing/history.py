"""What this node's own clients ask for, again and again: how often, and whether it stays here.

For a prefix that a peer has cached, each request can pay the round trip (rent), or one of them the
computation here (buy). Nobody knows how often it will come. To buy once as much was paid in rents
is at most twice as dear as what would have been best in hindsight, and no rule without knowledge
of the future does better (ski rental: Karlin, Manasse, Rudolph, Sleator 1988). But what is bought
is only worth something as long as it stays in the cache. A cache that drops what was not used for
longest keeps everything for about the same time T after its last use (the characteristic time of
Che, Tung, Wang 2002). So it is popular prefixes that stay: one that is needed at random, r times a
second, is needed e^(rT) - 1 times before a pause is longer than T.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

#: What was asked loses half of its weight in this time.
HALF_LIFE_S: Final = 300.0
#: Prefixes and blocks remembered; the oldest are forgotten.
PREFIXES_MAX: Final = 4096
BLOCKS_MAX: Final = 1 << 14
#: Shares are over about so many requests.
_REQUESTS: Final = 32
#: How long prefixes stay here is over about so many that were needed again.
_RETURNS: Final = 16
#: More than anything is used.
_EXPONENT_MAX: Final = 50.0
#: `History.again`, until anybody has asked.
AGAIN_PRIOR: Final = 0.5


class _Prefix(NamedTuple):
    """Requests for it, fading with time; and whether the last one left it in the cache here."""

    uses: float
    at_s: float
    here: bool


_NEVER: Final = _Prefix(0.0, 0.0, here=False)


class History:
    """Times in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._prefixes: dict[int, _Prefix] = {}
        self._blocks: dict[int, None] = {}
        #: Last blocks of prompts.
        self._ends: dict[int, None] = {}
        #: Share of the prompts' blocks that were asked for before.
        self.again = AGAIN_PRIOR
        #: Share of the prompts that go on where an earlier one ended.
        self.goes_on = 0.0
        #: When a prefix was needed for the first time.
        self._begun_s = math.inf
        #: How long a prefix stays that nobody needs; infinite until one has gone.
        self._stays_s = math.inf

    def asked(self, hashes: Sequence[int]) -> None:
        """A client asks a prompt with these blocks, first block first."""
        if not hashes:
            return
        known = sum(block in self._blocks for block in hashes) / len(hashes)
        follows = any(block in self._ends for block in hashes[:-1])
        self.again += (known - self.again) / _REQUESTS
        self.goes_on += (follows - self.goes_on) / _REQUESTS
        # The first blocks are shared by most, so they are to be forgotten last.
        _remember(self._blocks, reversed(hashes), BLOCKS_MAX)
        _remember(self._ends, hashes[-1:], PREFIXES_MAX)

    def used(self, prefix: int, now: float, *, held: bool, stays: bool) -> None:
        """A request needed the prefix that ends with this block.

        ``held``: it was cached here. ``stays``: it is now, or will be.
        """
        known = self._prefixes.pop(prefix, _NEVER)
        uses = known.uses * _keep(now - known.at_s)
        self._begun_s = min(self._begun_s, now)
        if known.here:
            self._came_back(now - known.at_s, held=held)
        self._prefixes[prefix] = _Prefix(uses + 1, now, stays)
        if len(self._prefixes) > PREFIXES_MAX:
            del self._prefixes[next(iter(self._prefixes))]

    def uses(self, hashes: Sequence[int], now: float) -> float:
        """Requests for any prefix of a prompt with these blocks."""
        found = (self._prefixes[block] for block in hashes if block in self._prefixes)
        return sum(each.uses * _keep(now - each.at_s) for each in found)

    def uses_before_gone(self, uses: float, now: float) -> float:
        """How often a prefix is needed before it is gone from the cache here, if it comes into it.

        ``uses``: of it, as of `uses`.
        """
        if self._stays_s == math.inf:
            return math.inf
        # As long as it would take for these uses, if none of them faded.
        seconds = HALF_LIFE_S / math.log(2) * (1 - _keep(now - self._begun_s))
        per_s = uses / max(1.0, seconds)
        return math.expm1(min(_EXPONENT_MAX, self._stays_s * per_s))

    def _came_back(self, pause_s: float, *, held: bool) -> None:
        """A prefix that was here was needed again: whether it had gone tells how long they stay."""
        if self._stays_s == math.inf:
            self._stays_s = math.inf if held else pause_s
        elif held == (pause_s > self._stays_s):
            self._stays_s += (pause_s - self._stays_s) / _RETURNS


def _keep(seconds: float) -> float:
    return float(0.5 ** (seconds / HALF_LIFE_S))


def _remember(known: dict[int, None], more: Iterable[int], most: int) -> None:
    for each in more:
        known.pop(each, None)
        known[each] = None
    while len(known) > most:
        del known[next(iter(known))]
