"""What to give up first: a priority queue of things that lose value while nobody uses them.

Recency, hits and recomputation cost in one number, as in GreedyDual-Size-Frequency (Cherkasova,
1998). There, the clock stands at the value of the last victim, so a cache that has never been full
cannot tell old from new. Here it counts turn-overs: it goes forward by one whenever as many tokens
have come as the cache holds. A thing's value is the clock at its last use plus its worth, so worth
says how many turn-overs longer than the least of its kind it may stay unused.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import log2
from typing import Final, Generic, Protocol, TypeVar

#: Attention makes a token that stands this deep in a prompt about twice as dear as the first ones.
DOUBLE_COST_TOKENS: Final = 16_384

_TIDY_MIN: Final = 256


def worth(hits: int, depth: int) -> float:
    """What a cached token is worth, in turn-overs: its computation, and how often it was asked for.

    ``depth``: its place in the prompt. Hits count by their logarithm, for what was popular once
    must not stay for hundreds of turn-overs.
    """
    return log2(1 + hits) + depth / DOUBLE_COST_TOKENS


def elsewhere(cost: int, depth: int) -> float:
    """How much less, in turn-overs, a cached token is worth that can be had elsewhere: at most 0.

    It spares only what that costs, and not the computation of ``depth`` tokens. ``cost``: see
    `models.engine.Engine.copies_changed`.
    """
    return log2(min(1.0, cost / depth)) if cost else 0.0


class Valued(Protocol):
    """Something with a value, which the queue's owner sets."""

    value: float


V = TypeVar("V", bound=Valued)


class EvictionQueue(Generic[V]):
    """Candidates by value; of equal ones, the one that was offered first.

    ``is_candidate`` decides at the time of eviction: whatever ceased to be one is skipped.
    """

    def __init__(self, is_candidate: Callable[[V], bool]) -> None:
        self._is_candidate = is_candidate
        self._heap: list[tuple[float, int, V]] = []
        self._offers = 0
        self._tidy_at = _TIDY_MIN

    def offer(self, thing: V) -> None:
        """It may be a candidate from now on, with the value that it has."""
        if not self._is_candidate(thing):
            return
        self._offers += 1
        heapq.heappush(self._heap, (thing.value, self._offers, thing))
        if len(self._heap) > self._tidy_at:
            self._tidy()

    def coldest(self) -> V | None:
        """The first to go; it stays in the queue. None if there is no candidate."""
        while self._heap:
            value, _, thing = self._heap[0]
            if value == thing.value and self._is_candidate(thing):
                return thing
            heapq.heappop(self._heap)
        return None

    def _tidy(self) -> None:
        """Drop entries that were left behind by later offers of the same thing."""
        # Values fall as well as rise, so the entry to keep is the one that has the thing's value.
        stand = {id(entry[2]): entry for entry in self._heap if entry[0] == entry[2].value}
        self._heap = [entry for entry in stand.values() if self._is_candidate(entry[2])]
        heapq.heapify(self._heap)
        self._tidy_at = max(_TIDY_MIN, 2 * len(self._heap))
