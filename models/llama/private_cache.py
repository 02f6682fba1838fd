"""The cache for models whose memory can be copied and dropped as a whole, but not cut.

A recurrent state stands for all tokens before it: nobody can take the last ones out again, or the
first ones for another prompt. So every run has a sequence of its own, and what is reused is whole:

- a finished run's sequence is kept. A prompt that extends *all* of it, like the next turn of a
  conversation, takes it over;
- on the way through a prompt, copies of its state are kept as *marks*: where the prompt parted from
  another one that was seen, and at the last tile before the answer. A prompt that begins with all
  of a mark's tokens gets a copy. So a beginning that many prompts share is reused from the third
  on; by itself, without a mark at its end, a shared beginning is of no use here.

What is published is the last whole block of each kept sequence: a prompt that has it, has all.
A failed decode leaves a state that stands for nothing, so the run starts again, from a mark if
there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from models.engine import CacheStats
from models.llama.backend import Backend
from models.llama.chunks import TILE
from models.llama.run import Run
from overlay.prefix.chain import BLOCK_TOKENS, block_hashes
from overlay.prefix.changes import ChangeLog, Changes
from overlay.prefix.node import common


@dataclass(slots=True, eq=False)
class _Cells:
    """Cells that are covered by the same sequences: copies cover those of their original too."""

    count: int = 0
    holders: int = 1


@dataclass(slots=True, eq=False)
class _Sequence:
    """A sequence that a run has, or that is kept."""

    number: int
    cells: list[_Cells] = field(default_factory=list)
    #: What it stands for, while it is kept; of a run, all that it is to compute.
    tokens: list[int] = field(default_factory=list)
    #: While it is kept: the hash of its last whole block.
    block: int | None = None
    #: Copied for whoever needs it, rather than handed over.
    mark: bool = False
    hits: int = 0
    last_used: int = 0

    @property
    def cheap(self) -> bool:
        """Nobody has missed it yet."""
        return self.mark and not self.hits


class PrivateCache:
    """A `models.llama.cache.Cache` that gives each run a sequence of its own."""

    def __init__(self, backend: Backend, mesh_secret: bytes, model_key: bytes) -> None:
        self._backend = backend
        self._secret = mesh_secret
        self._model_key = model_key
        self._free = list(range(backend.sequences))[::-1]
        self._seated: dict[int, _Sequence] = {}
        self._kept: list[_Sequence] = []
        #: Where runs are to leave marks, by sequence.
        self._wanted: dict[int, list[int]] = {}
        self._used = 0
        self._ticks = count()
        self._changes = ChangeLog()
        #: How many kept sequences have it as their last block.
        self._blocks: Counter[int] = Counter()
        self._evictions = self._evicted_tokens = 0

    @property
    def cells_used(self) -> int:
        return self._used

    @property
    def cells_free(self) -> int:
        return self._backend.cells - self._used

    @property
    def evictable(self) -> int:
        return self._evictable_beside(None)

    @property
    def sequences_used(self) -> int:
        return self._backend.sequences - len(self._free)

    def stats(self) -> CacheStats:
        return CacheStats(evicted_tokens=self._evicted_tokens, evictions=self._evictions)

    def missing(self, tokens: Sequence[int]) -> int:
        """How many of these tokens would have to be computed now."""
        source = self._longest(tokens)
        return len(tokens) - (len(source.tokens) if source else 0)

    def seat(self, run: Run, promised: int) -> bool:
        """Give the run a sequence that stands for as much of its beginning as is kept.

        False if the rest does not fit beside the ``promised`` tokens of others, or if there is no
        sequence to be had.
        """
        source = self._longest(run.tokens[:-1])  # the last token's logits are needed
        length = len(source.tokens) if source else 0
        need = len(run.tokens) - length
        if need + promised > self.cells_free + self._evictable_beside(source):
            return False
        others = [*self._kept, *self._seated.values()]
        parting = max(
            (common(run.tokens, each.tokens, 0, len(each.tokens)) for each in others), default=0
        )
        number = self._sequence_for(source)
        if number is None:
            return False
        seated = self._seated[number] = _Sequence(number, tokens=run.tokens)
        run.sequence = number
        if source is not None:
            self._begin_with(source, seated)
        run.computed = 0
        run.note_shared(length)
        self._plan_marks(run, parting)
        return True

    def catch_up(self, run: Run) -> None:
        """Others compute nothing for this one."""

    def restore(self, run: Run, until: float) -> bool:
        """Nothing is spilled."""
        return False

    def record(self, run: Run, tokens: Sequence[int]) -> None:
        """The run has computed these tokens, which follow on what it had."""
        seated = self._seated[run.sequence]
        if not seated.cells or seated.cells[-1].holders > 1:
            seated.cells.append(_Cells())
        seated.cells[-1].count += len(tokens)
        self._used += len(tokens)
        run.note_computed(len(tokens))
        wanted = self._wanted[run.sequence]
        if run.computed in wanted:
            self._leave_mark(run, seated)
        self._next_mark(run)

    def roll_back(self, run: Run) -> None:
        """What a failed decode left of the run's state stands for nothing: begin anew."""
        seated = self._seated[run.sequence]
        self._empty(seated)
        run.note_forgotten()
        source = self._longest(run.tokens[:-1], marks_only=True)
        if source is not None:
            self._begin_with(source, seated)
            run.note_shared(len(source.tokens))
            self._next_mark(run)  # another run's mark may reach beyond the one that was due

    def leave(self, run: Run) -> None:
        """The run gives up its seat; its sequence is kept until somebody needs it."""
        seated = self._seated.pop(run.sequence)
        del self._wanted[run.sequence]
        tokens = run.tokens[: run.computed]
        run.sequence, run.pause = -1, None
        # Of two that stand for the same, the new one goes on.
        for same in [kept for kept in self._kept if kept.tokens == tokens]:
            seated.mark |= same.mark
            seated.hits += same.hits
            self._forget(same)
        if tokens:
            self._keep(seated, tokens)
        else:
            self._free.append(seated.number)

    def evict(self, tokens: int) -> int:
        """Free ``tokens`` cells or more, less if runs have the rest; returns how many."""
        before = self._used
        while before - self._used < tokens and self._kept:
            self._evict(min(self._kept, key=_value))
        return before - self._used

    def rekey(self, mesh_secret: bytes) -> None:
        self._secret = mesh_secret
        self._blocks.clear()
        self._changes.reset()
        for kept in self._kept:
            kept.block = None
            self._publish(kept)

    def copies_changed(self, changed: Mapping[int, int]) -> None:
        """What was used last goes last, whoever else has it."""

    def take_changes(self) -> Changes | None:
        return self._changes.take()

    def trim(self) -> None:
        """States do not slow each other down."""

    def close(self) -> None:
        """Nothing outlives the context."""

    # --- what is kept -------------------------------------------------------------------------

    def _longest(self, tokens: Sequence[int], *, marks_only: bool = False) -> _Sequence | None:
        """The kept sequence that stands for the most of the tokens, and for nothing else."""
        fitting = (
            kept
            for kept in self._kept
            if (kept.mark or not marks_only) and list(tokens[: len(kept.tokens)]) == kept.tokens
        )
        return max(fitting, key=lambda kept: len(kept.tokens), default=None)

    def _evictable_beside(self, source: _Sequence | None) -> int:
        """Cells that no run has, and that ``source`` does not cover either."""
        taken = {id(cells) for seated in self._seated.values() for cells in seated.cells}
        if source is not None:
            taken.update(id(cells) for cells in source.cells)
        spare = {id(cells): cells.count for kept in self._kept for cells in kept.cells}
        return sum(size for at, size in spare.items() if at not in taken)

    def _sequence_for(self, source: _Sequence | None) -> int | None:
        """A free sequence, or ``source``'s own if it need not or cannot stay."""
        if source is not None and not source.mark:
            return source.number
        if not self._free:
            others = [kept for kept in self._kept if kept is not source]
            if others:
                self._evict(min(others, key=_value))
            elif source is not None:
                return source.number
        return self._free.pop() if self._free else None

    def _begin_with(self, source: _Sequence, seated: _Sequence) -> None:
        """The run's sequence stands for what ``source`` does: a copy of it, or itself."""
        source.hits += 1
        source.last_used = next(self._ticks)
        if seated.number == source.number:
            self._unpublish(source)
            self._kept.remove(source)
        else:
            self._backend.copy(source.number, seated.number)
            for cells in source.cells:
                cells.holders += 1
        seated.cells = list(source.cells)

    def _keep(self, sequence: _Sequence, tokens: list[int]) -> None:
        sequence.tokens = tokens
        sequence.last_used = next(self._ticks)
        self._kept.append(sequence)
        self._publish(sequence)

    def _evict(self, kept: _Sequence) -> None:
        self._evictions += 1
        self._evicted_tokens += len(kept.tokens)
        self._forget(kept)

    def _forget(self, kept: _Sequence) -> None:
        self._kept.remove(kept)
        self._unpublish(kept)
        self._empty(kept)
        self._free.append(kept.number)

    def _empty(self, sequence: _Sequence) -> None:
        self._backend.forget(sequence.number, 0, None)
        for cells in sequence.cells:
            cells.holders -= 1
            if not cells.holders:
                self._used -= cells.count
        sequence.cells = []

    # --- marks --------------------------------------------------------------------------------

    def _plan_marks(self, run: Run, parting: int) -> None:
        """Where to leave marks: at whole tiles, for there prompts are cut anyway."""
        places = (_tile(parting), _tile(run.prompt_tokens - 1))
        self._wanted[run.sequence] = sorted(set(places))
        self._next_mark(run)

    def _next_mark(self, run: Run) -> None:
        wanted = [at for at in self._wanted[run.sequence] if at > run.computed]
        self._wanted[run.sequence] = wanted
        run.pause = wanted[0] if wanted else None

    def _leave_mark(self, run: Run, seated: _Sequence) -> None:
        """Keep a copy of the run's sequence as it is now, if that costs nobody anything."""
        tokens = run.tokens[: run.computed]
        if any(kept.tokens == tokens for kept in self._kept):
            return
        if not self._free:
            cheap = [kept for kept in self._kept if kept.cheap]
            if not cheap:
                return
            self._evict(min(cheap, key=_value))
        mark = _Sequence(self._free.pop(), cells=list(seated.cells), mark=True)
        self._backend.copy(seated.number, mark.number)
        for cells in mark.cells:
            cells.holders += 1
        self._keep(mark, tokens)

    # --- blocks -------------------------------------------------------------------------------

    def _publish(self, kept: _Sequence) -> None:
        if len(kept.tokens) < BLOCK_TOKENS:
            return
        block = block_hashes(self._secret, self._model_key, kept.tokens)[-1]
        kept.block = block
        self._blocks[block] += 1
        if self._blocks[block] == 1:
            self._changes.note([block], came=True)

    def _unpublish(self, kept: _Sequence) -> None:
        block, kept.block = kept.block, None
        if block is None:
            return
        self._blocks[block] -= 1
        if not self._blocks[block]:
            del self._blocks[block]
            self._changes.note([block], came=False)


def _value(kept: _Sequence) -> tuple[bool, int]:
    """Sorts what to forget first to the front."""
    return (not kept.cheap, kept.last_used)


def _tile(tokens: int) -> int:
    return tokens - tokens % TILE
