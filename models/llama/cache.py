"""What the scheduler needs of a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from models.engine import CacheStats
from models.llama.run import Run
from overlay.prefix.changes import Changes


class Cache(Protocol):
    """Seats runs in the KV cache, records what they compute, and evicts what nobody holds."""

    @property
    def cells_used(self) -> int: ...

    @property
    def cells_free(self) -> int: ...

    @property
    def evictable(self) -> int:
        """Cells that nobody holds."""

    @property
    def sequences_used(self) -> int: ...

    def stats(self) -> CacheStats: ...

    def missing(self, tokens: Sequence[int]) -> int:
        """How many of these tokens would have to be computed now."""

    def seat(self, run: Run, promised: int) -> bool:
        """Give the run a sequence that covers what the KV cache holds of its tokens.

        False if the rest does not fit beside the ``promised`` tokens of others, or if there is no
        sequence to be had.
        """

    def catch_up(self, run: Run) -> None:
        """Take over what other runs have computed of this one's prompt meanwhile."""

    def restore(self, run: Run, until: float) -> bool:
        """Bring back what is spilled of the run's prompt, at least a piece, until it is time.

        True if there is more to bring back.
        """

    def record(self, run: Run, tokens: Sequence[int]) -> None:
        """The run has computed these tokens, which follow on what it had."""

    def roll_back(self, run: Run) -> None:
        """What a failed decode wrote for the run does not count."""

    def leave(self, run: Run) -> None:
        """The run gives up its seat; its path stays cached until somebody needs the cells."""

    def evict(self, tokens: int) -> int:
        """Free ``tokens`` cells or a few more, less if locks forbid; returns how many."""

    def trim(self) -> None:
        """Others compute: give up some of what nobody uses, if it slows them down."""

    def rekey(self, mesh_secret: bytes) -> None:
        """Hash blocks under another mesh secret from now on."""

    def copies_changed(self, changed: Mapping[int, int]) -> None:
        """See `models.engine.Engine.copies_changed`."""

    def take_changes(self) -> Changes | None:
        """Block hashes that came and went since the last call; None if there are none."""

    def close(self) -> None:
        """No run is seated any longer: leave what is cached to the next start."""
