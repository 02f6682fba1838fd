"""How many of a prompt's tokens one step computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from models.llama.run import Run
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.prefix.node import Node

#: A step with prompts should take about this long: alone, and while others' answers stream. Large
#: batches compute up to a tenth faster, and a cancelled one is broken off in the middle; but who
#: comes meanwhile waits for its end.
STEP_S: Final = 1.0
STREAMING_STEP_S: Final = 0.25
#: And restoring spilled tokens may take this long before it.
RESTORE_S: Final = 0.25
STREAMING_RESTORE_S: Final = 0.05
#: Prompt tokens in a step: the fewest, however slow the machine, and before its speed is known.
CHUNK_MIN: Final = 32
CHUNK_UNMEASURED: Final = 64
#: llama.cpp's attention computes batches of this many tokens or more in another way, with other
#: rounding. Prompts are cut at its multiples, so that their rounding does not hang on timing.
TILE: Final = 64


def chunk(rate: float, *, streaming: bool) -> int:
    """Prompt tokens for one step, at ``rate`` tokens per second (0: not measured yet)."""
    if rate == 0:
        return CHUNK_UNMEASURED
    if streaming:
        return max(CHUNK_MIN, _nearest(rate * STREAMING_STEP_S, CHUNK_MIN))
    # Whole tiles, however slow the machine: alone, a prompt is always cut at the same places.
    return max(TILE, _nearest(rate * STEP_S, TILE))


def cut(run: Run, budget: int) -> int:
    """How many of the run's tokens to compute now."""
    if run.pause is not None:
        budget = min(budget, run.pause - run.computed)
    if run.pending < TILE:
        return min(run.pending, budget)
    # The last token stays out of the tiles, for it is computed alone when all else is cached.
    end = min(run.computed + budget, len(run.tokens) - 1)
    aligned = end - end % TILE
    return (aligned if aligned > run.computed else end) - run.computed


class Placed(Protocol):
    """A request at its place in the radix tree: the engine's, or the simulator's."""

    #: The node that ends with its computed tokens.
    node: Node | None
    computed: int

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def pending(self) -> int:
        """Tokens not computed yet."""
        ...


def same_ahead(run: Placed, other: Placed) -> bool:
    """Both stand at the same place of the tree, and need the same block next."""
    if run.node is None or run.node is not other.node or run.computed != other.computed:
        return False
    ahead = slice(run.computed, run.computed + BLOCK_TOKENS)
    return run.pending > BLOCK_TOKENS and run.tokens[ahead] == other.tokens[ahead]


def _nearest(tokens: float, unit: int) -> int:
    return round(tokens / unit) * unit
