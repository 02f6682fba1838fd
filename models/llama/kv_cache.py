"""Who holds which cells of llama.cpp's KV cache: the radix tree and the sequences, kept in step.

A running request holds one sequence that covers its path from the root, and a lock that ends
there. The tree owns the sequences of its leaves; a sequence is free when neither the tree nor a
run has it. What two runs computed twice is given back at once, so the tree's size is the number
of cells in use.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.llama.backend import Backend
from models.llama.run import Run
from overlay.prefix.radix import Changes, Evicted, RadixTree


class KvCache:
    """Seats runs in the cache, records what they compute, and evicts what nobody holds."""

    def __init__(self, backend: Backend, tree: RadixTree) -> None:
        self._backend = backend
        self._tree = tree
        self._free = list(range(backend.sequences))[::-1]
        #: Sequences of seated runs.
        self._held: set[int] = set()
        #: Total since the start.
        self.evicted_tokens = 0

    @property
    def cells_used(self) -> int:
        return self._tree.size

    @property
    def cells_free(self) -> int:
        return self._backend.cells - self._tree.size

    @property
    def evictable(self) -> int:
        return self._tree.evictable

    @property
    def sequences_used(self) -> int:
        return self._backend.sequences - len(self._free)

    def missing(self, tokens: Sequence[int]) -> int:
        """How many of these tokens would have to be computed now."""
        return len(tokens) - self._tree.match_prefix(tokens).length

    def seat(self, run: Run, promised: int, now: float) -> bool:
        """Give the run a sequence that covers what is cached of its tokens.

        False if the rest does not fit beside the ``promised`` tokens of others, or if there is no
        sequence to be had.
        """
        # The last token is always computed: its logits are needed.
        match = self._tree.match_prefix(run.tokens, limit=len(run.tokens) - 1)
        need = len(run.tokens) - match.length
        if need + promised > self.cells_free + self._tree.evictable_beside(match):
            return False
        node = self._tree.lock(match, now)
        if not self._free:
            before = self._tree.size
            self._forget(self._tree.evict_sequence())
            self.evicted_tokens += before - self._tree.size
        if not self._free:
            self._tree.unlock(node)
            return False
        run.sequence, run.node, run.computed = self._free.pop(), node, 0
        self._held.add(run.sequence)
        self._share_up_to(run, match.length)
        return True

    def catch_up(self, run: Run, now: float) -> None:
        """Take over what other runs have computed of this one's prompt meanwhile."""
        assert run.node is not None
        match = self._tree.match_prefix(run.tokens, at=run.node, limit=len(run.tokens) - 1)
        if match.length > run.computed:
            node = self._tree.lock(match, now)
            self._tree.unlock(run.node)
            run.node = node
            self._share_up_to(run, match.length)

    def record(self, run: Run, tokens: Sequence[int], now: float) -> None:
        """The run has computed these tokens, which follow on what it had."""
        assert run.node is not None
        done = self._tree.insert_prefix(run.node, tokens, run.sequence, now)
        if done.donor is not None:
            end = run.computed + done.shared
            self._backend.forget(run.sequence, run.computed, end)
            self._backend.share(done.donor, run.sequence, run.computed, end)
        if done.released is not None and done.released not in self._held:
            self._forget([Evicted(done.released, 0)])
        run.node = done.node
        run.note_computed(len(tokens))

    def roll_back(self, run: Run) -> None:
        """What a failed decode wrote for the run does not count."""
        self._backend.forget(run.sequence, run.computed, None)

    def leave(self, run: Run) -> None:
        """The run gives up its seat; its path stays cached until somebody needs the cells."""
        assert run.node is not None
        self._held.remove(run.sequence)
        if run.node.owner != run.sequence:
            self._forget([Evicted(run.sequence, 0)])
        self._tree.unlock(run.node)
        run.node, run.sequence = None, -1

    def evict(self, tokens: int) -> int:
        """Free up to ``tokens`` cells; returns how many."""
        before = self._tree.size
        self._forget(self._tree.evict(tokens))
        freed = before - self._tree.size
        self.evicted_tokens += freed
        return freed

    def rekey(self, mesh_secret: bytes) -> None:
        self._tree.rekey(mesh_secret)

    def take_changes(self) -> Changes | None:
        return self._tree.take_changes()

    def _share_up_to(self, run: Run, length: int) -> None:
        """The run's sequence covers its path, from where it is, up to its node."""
        assert run.node is not None
        donor = self._tree.owner_below(run.node)
        if donor is not None and length > run.computed:
            self._backend.share(donor, run.sequence, run.computed, length)
        run.note_shared(length)

    def _forget(self, evicted: list[Evicted]) -> None:
        for owner, keep in evicted:
            self._backend.forget(owner, keep, None)
            if keep == 0:
                self._free.append(owner)
