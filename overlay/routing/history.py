"""What this node's own clients ask for, again and again: how often, and what it cost to be far.

For a prefix that a peer has cached, each request can pay the round trip (rent), or one of them the
computation here (buy). Nobody knows how often it will come. To buy once the rents paid come to the
price is at most twice as dear as what would have been best in hindsight, and no rule without
knowledge of the future does better (ski rental: Karlin, Manasse, Rudolph, Sleator 1988).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

#: What was asked loses half of its weight in this time.
HALF_LIFE_S: Final = 300.0
#: Prefixes and blocks remembered; the oldest are forgotten.
PREFIXES_MAX: Final = 4096
BLOCKS_MAX: Final = 1 << 14
#: Shares are over about so many requests.
_REQUESTS: Final = 32


class Used(NamedTuple):
    """What became of a prefix: requests for it, and the rents that they paid, fading with time."""

    uses: float = 0.0
    rents_ms: float = 0.0


class _Entry(NamedTuple):
    used: Used
    at_s: float


_NEVER: Final = _Entry(Used(), 0.0)


class History:
    """Times in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._prefixes: dict[int, _Entry] = {}
        self._blocks: dict[int, None] = {}
        #: Last blocks of prompts.
        self._ends: dict[int, None] = {}
        #: Share of the prompts' blocks that were asked for before.
        self.again = 0.0
        #: Share of the prompts that go on where an earlier one ended.
        self.goes_on = 0.0

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

    def used(self, prefix: int, rent_ms: float, now: float) -> None:
        """A request found the prefix that ends with this block; it paid so much to be far."""
        uses, rents_ms = self._now(prefix, now)
        self._prefixes.pop(prefix, None)
        self._prefixes[prefix] = _Entry(Used(uses + 1, rents_ms + rent_ms), now)
        if len(self._prefixes) > PREFIXES_MAX:
            del self._prefixes[next(iter(self._prefixes))]

    def of(self, hashes: Sequence[int], now: float) -> Used:
        """Of all prefixes of a prompt with these blocks."""
        found = [self._now(block, now) for block in hashes if block in self._prefixes]
        return Used(sum(u.uses for u in found), sum(u.rents_ms for u in found))

    def _now(self, prefix: int, now: float) -> Used:
        (uses, rents_ms), at_s = self._prefixes.get(prefix, _NEVER)
        keep = 0.5 ** ((now - at_s) / HALF_LIFE_S)
        return Used(keep * uses, keep * rents_ms)


def _remember(known: dict[int, None], more: Iterable[int], most: int) -> None:
    for each in more:
        known.pop(each, None)
        known[each] = None
    while len(known) > most:
        del known[next(iter(known))]
