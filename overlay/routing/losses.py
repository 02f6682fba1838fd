"""How much of what a node computes the mesh had, and has thrown away: the lack of memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

#: The weight of each computed block against the one after it: about 50 prompts count.
FADE: Final = 0.999
#: Blocks that count as new before anything is known.
PRIOR: Final = 32.0
#: Blocks remembered as gone; the oldest are forgotten.
BLOCKS_MAX: Final = 1 << 14


class Losses:
    """As one node sees it."""

    def __init__(self) -> None:
        self._gone: dict[int, None] = {}
        self._computed = 0.0
        self._lost = 0.0

    @property
    def share(self) -> float:
        """Of the blocks computed here, those that somebody had held, and nobody kept (0 to 1)."""
        return self._lost / (self._computed + PRIOR)

    def gone(self, blocks: Iterable[int]) -> None:
        """Nobody holds these any more."""
        self._gone.update(dict.fromkeys(blocks))
        while len(self._gone) > BLOCKS_MAX:
            del self._gone[next(iter(self._gone))]

    def found(self, blocks: Iterable[int]) -> int:
        """Somebody holds these; returns how many had gone."""
        again = self._gone.keys() & set(blocks)
        for block in again:
            del self._gone[block]
        return len(again)

    def computed(self, blocks: Collection[int]) -> None:
        """These were computed here."""
        fade = FADE ** len(blocks)
        self._computed = fade * self._computed + len(blocks)
        self._lost = fade * self._lost + self.found(blocks)
