"""Which block hashes came and went since somebody last asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Changes(NamedTuple):
    """Block hashes that came and went since the last look; ``reset``: forget all earlier ones."""

    added: tuple[int, ...]
    removed: tuple[int, ...]
    reset: bool


class ChangeLog:
    """Collects changes; what came and went again in between is not told."""

    def __init__(self) -> None:
        # hash -> True (came) or False (went); insertion order keeps parents before children.
        self._pending: dict[int, bool] = {}
        self._reset = False

    def note(self, blocks: Iterable[int], *, came: bool) -> None:
        for block in blocks:
            if self._pending.get(block) is (not came):
                del self._pending[block]
            else:
                self._pending[block] = came

    def reset(self) -> None:
        """All blocks told so far are void."""
        self._pending.clear()
        self._reset = True

    def take(self) -> Changes | None:
        """Changes since the last call; None if there are none."""
        if not self._pending and not self._reset:
            return None
        added = tuple(block for block, came in self._pending.items() if came)
        removed = tuple(block for block, came in self._pending.items() if not came)
        changes = Changes(added, () if self._reset else removed, self._reset)
        self._pending, self._reset = {}, False
        return changes
