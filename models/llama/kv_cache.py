"""Who holds which cells of llama.cpp's KV cache: the radix tree and the sequences, kept in step.

A running request holds one sequence that covers its path from the root, and a lock that ends
there. The tree owns the sequences of its leaves; a sequence is free when neither the tree nor a
run has it. What two runs computed twice is given back at once, so the tree's size is the number
of cells in use. What is evicted is spilled, as long as that pays, and restored when a run needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from models.engine import CacheStats
from models.llama.backend import Backend
from models.llama.rate import Rates
from models.llama.run import Run
from models.llama.spill import Spill
from overlay.prefix.changes import Changes
from overlay.prefix.node import Node, Piece
from overlay.prefix.radix import Evicted, Inserted, RadixTree

#: llama.cpp's attention looks at all cells up to the highest used one, whosever they are: on two
#: cores a thousand foreign ones cost 0.3 ms of each decode and 4 ms of each question of 20 tokens,
#: while restoring them costs 2 ms, once. So only so many stay in the KV cache while others compute.
IDLE_TOKENS: Final = 1024
#: How many are spilled in one step, for saving takes time too.
TRIM_TOKENS: Final = 512
#: Tokens that leave the KV cache in one go at the end: their state takes RAM until it is on disk.
CLOSE_TOKENS: Final = 1024


class KvCache:
    """Seats runs in the cache, records what they compute, and evicts what nobody holds."""

    def __init__(
        self,
        backend: Backend,
        tree: RadixTree,
        spill: Spill,
        rates: Rates,
        clock: Callable[[], float],
    ) -> None:
        """Takes in what the spill has kept on disk since an earlier start."""
        self._backend = backend
        self._tree = tree
        self._spill = spill
        self._rates = rates
        self._clock = clock
        self._free = list(range(backend.sequences))[::-1]
        #: Sequences of seated runs.
        self._held: set[int] = set()
        self._evictions = self._evicted_tokens = self._restored_tokens = 0
        for tokens, piece in spill.found_on_disk():
            if not tree.adopt(tokens, piece):
                spill.drop(piece, lost=True)

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

    def stats(self) -> CacheStats:
        spill = self._spill
        return CacheStats(
            spilled_tokens=spill.ram_tokens,
            spilled_bytes=spill.ram_bytes,
            disk_tokens=spill.disk_tokens,
            disk_bytes=spill.disk_bytes,
            restore_rate=self._rates.from_ram.per_second or self._rates.from_disk.per_second,
            evicted_tokens=self._evicted_tokens,
            evictions=self._evictions,
            spills=spill.spills,
            restores=spill.restores,
            restored_tokens=self._restored_tokens,
            dropped_pieces=spill.dropped,
        )

    def missing(self, tokens: Sequence[int]) -> int:
        """How many of these tokens would have to be computed now."""
        return len(tokens) - self._tree.match_prefix(tokens).length

    def seat(self, run: Run, promised: int) -> bool:
        """Give the run a sequence that covers what the KV cache holds of its tokens.

        False if the rest does not fit beside the ``promised`` tokens of others, or if there is no
        sequence to be had.
        """
        # The last token is always computed: its logits are needed.
        limit = len(run.tokens) - 1
        match = self._tree.resident_part(self._tree.match_prefix(run.tokens, limit=limit))
        need = len(run.tokens) - match.length
        if need + promised > self.cells_free + self._tree.evictable_beside(match):
            return False
        node = self._tree.lock(match)
        while not self._free and (tip := self._tree.coldest_tip()) is not None:
            self._evict(tip, tip.start)
        if not self._free:
            self._tree.unlock(node)
            self._settle()
            return False
        run.sequence, run.node, run.computed = self._free.pop(), node, 0
        self._held.add(run.sequence)
        self._share_up_to(run, match.length)
        if run.started_s is None:
            self._tree.hit(self._tree.match_prefix(run.tokens, limit=limit))
        self._settle()
        return True

    def catch_up(self, run: Run) -> None:
        """Take over what other runs have computed of this one's prompt meanwhile."""
        assert run.node is not None
        match = self._tree.match_prefix(run.tokens, at=run.node, limit=len(run.tokens) - 1)
        match = self._tree.resident_part(match)
        if match.length > run.computed:
            node = self._tree.lock(match)
            self._tree.unlock(run.node)
            run.node = node
            self._share_up_to(run, match.length)

    def restore(self, run: Run, until: float) -> bool:
        """Bring back what is spilled of the run's prompt, at least a piece, until it is time.

        True if there is more to bring back.
        """
        while (part := self._spilled_ahead(run)) is not None:
            if not self._restore(run, *part):
                break
            if self._clock() >= until:
                return self._spilled_ahead(run) is not None
        return False

    def record(self, run: Run, tokens: Sequence[int]) -> None:
        """The run has computed these tokens, which follow on what it had."""
        assert run.node is not None
        done = self._tree.insert_prefix(run.node, tokens, run.sequence)
        if done.donor is not None:
            end = run.computed + done.shared
            self._backend.forget(run.sequence, run.computed, end)
            self._backend.share(done.donor, run.sequence, run.computed, end)
        self._stand(run, done)
        run.note_computed(len(tokens))

    def roll_back(self, run: Run) -> None:
        """What a failed decode wrote for the run does not count."""
        self._backend.forget(run.sequence, run.computed, None)

    def leave(self, run: Run) -> None:
        """The run gives up its seat; its path stays cached until somebody needs the cells."""
        assert run.node is not None
        self._held.remove(run.sequence)
        if run.node.owner != run.sequence:
            self._forget(Evicted(run.sequence, 0))
        self._tree.unlock(run.node)
        run.node, run.sequence = None, -1

    def evict(self, tokens: int) -> int:
        """Free ``tokens`` cells or a few more, less if locks forbid; returns how many."""
        before = self._tree.size
        while (want := tokens - (before - self._tree.size)) > 0:
            tip = self._tree.coldest_tip()
            if tip is None:
                break
            keep = max(0, tip.end - want)
            self._evict(tip, max(tip.start, keep - keep % self._backend.piece_tokens))
        self._settle()
        return before - self._tree.size

    def trim(self) -> None:
        """Others compute: spill some of what nobody uses, for it slows them down."""
        idle = self._tree.evictable - IDLE_TOKENS
        if idle > 0 and self._spill.worthwhile:
            self.evict(min(idle, TRIM_TOKENS))

    def close(self) -> None:
        """No run is seated any longer: leave what is cached to the next start."""
        self._spill.pass_on()
        while self.evict(CLOSE_TOKENS):
            pass
        self._spill.move_out()
        self._settle()
        self._spill.close()

    def rekey(self, mesh_secret: bytes) -> None:
        self._tree.rekey(mesh_secret)

    def copies_changed(self, changed: Mapping[int, int]) -> None:
        self._tree.copies_changed(changed)

    def take_changes(self) -> Changes | None:
        return self._tree.take_changes()

    def _share_up_to(self, run: Run, length: int) -> None:
        """The run's sequence covers its path, from where it is, up to its node."""
        assert run.node is not None
        donor = self._tree.owner_below(run.node)
        if donor is not None and length > run.computed:
            self._backend.share(donor, run.sequence, run.computed, length)
        run.note_shared(length)

    def _stand(self, run: Run, done: Inserted) -> None:
        """The tree has taken in what the run's sequence covers."""
        if done.released is not None and done.released not in self._held:
            self._forget(Evicted(done.released, 0))
        run.node = done.node
        self._drop_released(lost=False)

    # --- tiers --------------------------------------------------------------------------------

    def _spilled_ahead(self, run: Run) -> tuple[Piece, int] | None:
        """The piece that has the run's next tokens, and how far along its prompt it helps."""
        assert run.node is not None
        node, end = self._tree.match_prefix(run.tokens, at=run.node, limit=len(run.tokens) - 1)
        while node is not run.node and node.parent is not run.node:
            assert node.parent is not None
            node = node.parent
            end = node.end
        for piece in node.pieces or ():
            if piece.end > run.computed:
                return piece, min(end, piece.end)
        return None

    def _restore(self, run: Run, piece: Piece, end: int) -> bool:
        """Bring tokens up to ``end`` back; False if they have to be computed after all."""
        self.evict(piece.end - piece.start - self.cells_free)
        if piece.end - piece.start > self.cells_free or not piece.uses:
            return False
        began = self._clock()
        state = self._spill.load(piece)
        start = run.computed
        if state is None or not self._backend.restore(state, run.sequence, start, end):
            return False
        self._spill.note_restored(piece, piece.end - piece.start, self._clock() - began)
        self._restored_tokens += end - start
        assert run.node is not None
        tokens = run.tokens[start:end]
        self._stand(run, self._tree.insert_prefix(run.node, tokens, run.sequence))
        run.note_shared(end)
        return True

    def _evict(self, tip: Node, keep: int) -> None:
        """Take a tip's tokens from ``keep`` on out of the KV cache, and spill them if that pays."""
        self._evictions += 1
        self._evicted_tokens += tip.end - keep
        self._forget(self._tree.cut(tip, keep, self._save(tip, keep)))
        self._drop_released(lost=True)

    def _save(self, tip: Node, keep: int) -> list[Piece]:
        if not self._spill.worthwhile:
            return []
        assert tip.owner is not None
        # Cut at multiples, so that a prompt gives the same pieces whenever it is evicted.
        path, most = tip.path(), self._backend.piece_tokens
        pieces: list[Piece] = []
        while keep < tip.end:
            end = min(keep - keep % most + most, tip.end)
            state = self._backend.save(tip.owner, keep, end)
            pieces.append(self._spill.keep(path[:end], keep, state))
            keep = end
        return pieces

    def _settle(self) -> None:
        """Keep the tiers within their budgets: what is coldest is forgotten for good.

        And what a full disk did not take: nobody may be told that it is here.
        """
        for piece in self._spill.take_failed():
            self._tree.lose(piece)
            self._drop_released(lost=True)
        while not self._spill.settle():
            leaf = self._tree.coldest_spilled()
            assert leaf is not None, "whatever is kept hangs in the tree"
            self._tree.forget(leaf)
            self._drop_released(lost=True)

    def _drop_released(self, *, lost: bool) -> None:
        for piece in self._tree.released:
            self._spill.drop(piece, lost=lost)
        self._tree.released.clear()

    def _forget(self, evicted: Evicted) -> None:
        self._backend.forget(evicted.owner, evicted.keep, None)
        if evicted.keep == 0:
            self._free.append(evicted.owner)
