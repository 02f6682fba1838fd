"""Which cached blocks a node tells of, when it holds more than a summary has room for.

A block's hash stands for the whole prefix up to it, so a path need not be told block by block. An
*end* alone, a block where a prompt ended or where the match of one did, makes the match of the next
such prompt exact. Other blocks matter to prompts that leave a path elsewhere. The longer ago a
path was computed, the fewer of those are told: a half, a quarter, and so on, by the first bits of
their hashes, on which all nodes agree. A match may then look some blocks shorter than it is, never
longer.

A block's value is the clock at its last use plus its rank, as in `overlay.prefix.eviction`. The
clock goes forward by one whenever as many blocks have come as a summary holds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from math import log2
from typing import Final

from overlay.limits import SUMMARY_BLOCKS_MAX, SUMMARY_SWAPS_PER_S
from overlay.prefix.changes import ChangeLog, Changes

#: Half of the blocks have rank 0, a quarter 1, and so on up to this one.
RANK_MAX: Final = 5
#: An end's; with the logarithm of how many prompts were found to match up to it.
END_RANK: Final = RANK_MAX + 1
#: A told block gives way only to one that is worth this much more, for each change is gossip.
SWAP_GAIN_MIN: Final = 0.25
#: Swaps that may be made at once after a quiet time.
SWAPS_AT_ONCE: Final = 256
#: Ends of prompts whose computation has not come so far, or never will.
AWAITED_MAX: Final = 1024

_HASH_BITS = 64
_TIDY_MIN = 256


class Summary:
    """Of the held blocks, those that are told, at most SUMMARY_BLOCKS_MAX, and the next best.

    What would be told only after as many others as a summary holds is not remembered, until it is
    used again: so a cache of any size takes no more memory and time than a small one.
    """

    def __init__(self) -> None:
        self._told = _Queue()
        # By negative value: the most valuable one is the first.
        self._waiting = _Queue()
        #: How many prompts' matches ended there.
        self._ends: dict[int, int] = {}
        self._awaited: dict[int, None] = {}
        self._clock = 0.0
        self._swaps = 0.0
        self._swapped_s = 0.0
        self._changes = ChangeLog()

    def __len__(self) -> int:
        """How many blocks are told."""
        return len(self._told.values)

    def changed(self, added: Sequence[int], removed: Iterable[int]) -> None:
        """Blocks came to be held, parents before their children, and others ceased to be."""
        for block in removed:
            self._ends.pop(block, None)
            self._waiting.values.pop(block, None)
            if self._told.values.pop(block, None) is not None:
                self._changes.note((block,), came=False)
        self._clock += len(added) / SUMMARY_BLOCKS_MAX
        for block in added:
            if block in self._awaited:
                del self._awaited[block]
                self._ends[block] = 0
            self._use(block)
        if len(self._waiting.values) > 2 * SUMMARY_BLOCKS_MAX:
            ranked = sorted((value, block) for block, value in self._waiting.values.items())
            self._waiting = _Queue({block: value for value, block in ranked[:SUMMARY_BLOCKS_MAX]})

    def void(self, blocks: set[int]) -> None:
        """None of these is held any more: a whole cache is gone. The time does not grow with it."""
        for block in self._told.values.keys() & blocks:
            del self._told.values[block]
            self._changes.note((block,), came=False)
        self._ends = {end: hits for end, hits in self._ends.items() if end not in blocks}
        waiting = {b: value for b, value in self._waiting.values.items() if b not in blocks}
        self._waiting = _Queue(waiting)

    def asked(self, hashes: Sequence[int], held: int) -> None:
        """A prompt with these blocks is computed here; the first ``held`` of them need not be."""
        if held:
            end = hashes[held - 1]
            self._ends[end] = self._ends.get(end, 0) + 1
            self._use(end)
        if held < len(hashes):
            self._awaited[hashes[-1]] = None
            if len(self._awaited) > AWAITED_MAX:
                del self._awaited[next(iter(self._awaited))]

    def take(self, now: float) -> Changes | None:
        """What is told from now on, and what not any longer; None if nothing changed.

        ``now``: in seconds. Free room is used at once, but swaps are rationed.
        """
        told, waiting = self._told, self._waiting
        if len(told.values) + len(waiting.values) <= SUMMARY_BLOCKS_MAX:
            for block in waiting.values:
                self._tell(block)
            self._waiting = _Queue()
            return self._changes.take()
        while len(told.values) < SUMMARY_BLOCKS_MAX and (best := waiting.first()) is not None:
            self._tell(best)
            del waiting.values[best]
        earned = (now - self._swapped_s) * SUMMARY_SWAPS_PER_S
        self._swaps = min(SWAPS_AT_ONCE, self._swaps + earned)
        self._swapped_s = now
        while self._swaps >= 1 and self._swap():
            self._swaps -= 1
        return self._changes.take()

    def _swap(self) -> bool:
        """Tell the best one that waits instead of the worst one that is told, if that pays."""
        worst, best = self._told.first(), self._waiting.first()
        if worst is None or best is None:
            return False
        value = self._told.values[worst]
        if -self._waiting.values[best] < value + SWAP_GAIN_MIN:
            return False
        del self._told.values[worst]
        self._changes.note((worst,), came=False)
        self._tell(best)
        del self._waiting.values[best]
        self._waiting.put(worst, -value)
        return True

    def _tell(self, block: int) -> None:
        self._told.put(block, -self._waiting.values[block])
        self._changes.note((block,), came=True)

    def _use(self, block: int) -> None:
        """The block, which is held, has its value as of now."""
        hits = self._ends.get(block)
        rank = _rank(block) if hits is None else END_RANK + log2(1 + hits)
        value = self._clock + rank
        if block in self._told.values:
            self._told.put(block, value)
        else:
            self._waiting.put(block, -value)


def _rank(block: int) -> int:
    """As many as the hash has zero bits in front, up to RANK_MAX."""
    return min(RANK_MAX, _HASH_BITS - block.bit_length())


class _Queue:
    """Blocks by a number, least first. ``values`` may be changed, but for lower ones by `put`."""

    def __init__(self, values: dict[int, float] | None = None) -> None:
        self.values = values or {}
        self._heap: list[tuple[float, int]] = []
        self._heapify()

    def put(self, block: int, value: float) -> None:
        self.values[block] = value
        heapq.heappush(self._heap, (value, block))
        if len(self._heap) > 2 * len(self.values) + _TIDY_MIN:
            self._heapify()

    def first(self) -> int | None:
        """The block with the least number; it stays. None if there is none."""
        while self._heap:
            value, block = self._heap[0]
            if self.values.get(block) == value:
                return block
            heapq.heappop(self._heap)
        return None

    def _heapify(self) -> None:
        """Leave behind what was removed or put again since."""
        self._heap = [(value, block) for block, value in self.values.items()]
        heapq.heapify(self._heap)
