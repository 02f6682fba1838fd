"""Which blocks of this node's cache others hold, too, and how far away: those may go first.

A prompt whose prefix is gone here, but not elsewhere, need not be computed again: it can go there.
So a cache loses less with what a near, idle peer has, too, than with the mesh's last copy. One of
the holders, the keeper, takes its own for the last one, or all would give theirs up at once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from itertools import islice
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.prefix.index import PeerIndex
from overlay.routing.keeper import keeper

#: Ways and waits change without a word: so many blocks are looked at again each time, in turn.
LOOKS: Final = 256
#: So many holders are weighed for that each time, and so many for blocks that came or went, at a
#: microsecond each; the other blocks have to wait.
WEIGHED_AGAIN_MAX: Final = 2048
WEIGHED_MAX: Final = 4096
#: What has changed by no more than this share is not worth telling.
SAME: Final = 0.25


class Copies:
    """Of one model's blocks that are cached here. Costs are in tokens, as if they were computed."""

    def __init__(self, me: PeerId, index: PeerIndex[PeerId]) -> None:
        self._me = me
        self._index = index
        #: Blocks that came or went, here or elsewhere.
        self._stale: set[int] = set()
        #: Those that others hold, too, with what was told of them last; the next to look at first.
        self._costs: dict[int, int] = {}

    def changed_here(self, added: Iterable[int], removed: Iterable[int]) -> None:
        """These came to be cached here, and others ceased to be."""
        self._stale.update(block for block in added if block in self._index)
        self._stale.update(block for block in removed if block in self._costs)

    def changed_elsewhere(self, blocks: Iterable[int]) -> None:
        """Of these, which are cached here, a peer told that they came, or went."""
        self._stale.update(blocks)

    def take(self, held: Container[int], ways: Mapping[PeerId, float]) -> dict[int, int]:
        """What is to be told: block -> cost, as in `models.engine.Engine.copies_changed`.

        ``held``: the blocks that are cached here. ``ways``: what it costs to do with the copy of
        each peer that can be asked.
        """
        told: dict[int, int] = {}
        weighed = 0
        for block in [*islice(self._costs, LOOKS)]:
            if weighed >= WEIGHED_AGAIN_MAX:
                break
            weighed += self._look(block, held, ways, told)
        weighed = 0
        while self._stale and weighed < WEIGHED_MAX:
            weighed += self._look(self._stale.pop(), held, ways, told)
        return told

    def _look(
        self, block: int, held: Container[int], ways: Mapping[PeerId, float], told: dict[int, int]
    ) -> int:
        """Find out what is to be told of the block; returns how much work it was."""
        before = self._costs.pop(block, 0)
        holders = self._index.holders(block) if block in held else []
        cost = self._cost(block, [peer for peer in holders if peer in ways], ways)
        if before and cost and abs(cost - before) <= SAME * before:
            cost = before
        if cost != before:
            told[block] = cost
        if holders:
            self._costs[block] = cost
        return 1 + len(holders)

    def _cost(self, block: int, holders: list[PeerId], ways: Mapping[PeerId, float]) -> int:
        if not holders or keeper(block, [self._me, *holders]) == self._me:
            return 0
        return max(1, round(min(ways[peer] for peer in holders)))
