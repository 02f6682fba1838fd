"""How much of what prompts need again the mesh had, and has thrown away: the lack of memory."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

#: The weight of each counted block against the one after it: about 25 prompts count.
FADE: Final = 0.998
#: Blocks that count as kept before anything is known.
PRIOR: Final = 32.0
#: Blocks remembered as gone; the oldest are forgotten.
BLOCKS_MAX: Final = 1 << 14


class Losses:
    """One node's part of it. Of a block that went, its last holder keeps count."""

    def __init__(self) -> None:
        self._gone: dict[int, None] = {}
        self._kept = 0.0
        self._lost = 0.0

    @property
    def share(self) -> float:
        """Of the blocks that were needed again, those that had gone from everywhere (0 to 1)."""
        return self._lost / (self._lost + self._kept + PRIOR)

    def went(self, blocks: Iterable[int], elsewhere: Container[int]) -> None:
        """These are held here no more; those that are not ``elsewhere`` are gone."""
        self._gone.update(dict.fromkeys(block for block in blocks if block not in elsewhere))
        while len(self._gone) > BLOCKS_MAX:
            del self._gone[next(iter(self._gone))]

    def came(self, blocks: Iterable[int]) -> None:
        """These were computed, here or elsewhere."""
        again = self._gone.keys() & set(blocks)
        for block in again:
            del self._gone[block]
        self._count(lost=len(again))

    def reused(self, count: int) -> None:
        """So many blocks were here when a prompt needed them."""
        self._count(kept=count)

    def _count(self, *, lost: int = 0, kept: int = 0) -> None:
        fade = FADE ** (lost + kept)
        self._lost = fade * self._lost + lost
        self._kept = fade * self._kept + kept
