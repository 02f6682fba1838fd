"""The radix tree against a model of plain lists, after every step."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.prefix.chain import block_hashes
from overlay.prefix.radix import Evicted, Node, RadixTree

SECRET, MODEL_KEY = b"secret", b"model"

# Few tokens, so that prefixes are shared; runs of them, so that blocks fill and end mid-edge.
runs = st.tuples(st.integers(0, 1), st.sampled_from([1, 2, 31, 32, 33]))
pieces = st.lists(runs, min_size=1, max_size=3).map(
    lambda runs: [token for token, count in runs for _ in range(count)]
)


@dataclass
class Holder:
    """Somebody who computes: its sequence, its tokens so far, and its lock."""

    sequence: int
    tokens: list[int]
    node: Node


class RadixMachine(RuleBasedStateMachine):
    """Holders come, compute and go; the model knows what each KV sequence covers."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = RadixTree(SECRET, MODEL_KEY)
        self.now = 0.0
        self.sequences = 0
        #: What each sequence, of the tree or of a holder, covers.
        self.covers: dict[int, list[int]] = {}
        self.holders: list[Holder] = []
        self.told: set[int] = set()
        self.secret = SECRET

    def known(self) -> set[tuple[int, ...]]:
        """All cached prefixes."""
        return {
            tuple(tokens[:length])
            for tokens in self.covers.values()
            for length in range(1, len(tokens) + 1)
        }

    def forget(self, evicted: list[Evicted]) -> None:
        for owner, keep in evicted:
            assert all(holder.sequence != owner for holder in self.holders)
            del self.covers[owner][keep:]
            if keep == 0:
                del self.covers[owner]

    def draw_path(self, data: st.DataObject) -> list[int]:
        """Often the beginning of a path that is known, and something new after it."""
        paths = st.sampled_from([[], *self.covers.values()])
        path = data.draw(paths, label="known path")
        cut = data.draw(st.sampled_from([len(path), len(path) // 2, 0]), label="cut")
        return path[:cut] + data.draw(st.just([]) | pieces, label="new")

    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        self.now += data.draw(st.integers(0, 1), label="time passes")
        tokens = self.draw_path(data)
        match = self.tree.match_prefix(tokens)
        known = self.known()
        expected = max(
            (n for n in range(1, len(tokens) + 1) if tuple(tokens[:n]) in known), default=0
        )
        assert match.length == expected
        room = self.tree.evictable_beside(match)
        node = self.tree.lock(match, self.now)
        assert node.end == match.length
        assert self.tree.evictable == room
        donor = self.tree.owner_below(node)
        if match.length:
            assert donor is not None
            assert self.covers[donor][: match.length] == tokens[: match.length]
        self.holders.append(Holder(self.sequences, tokens[: match.length], node))
        self.covers[self.sequences] = tokens[: match.length]
        self.sequences += 1

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, 3), label="times")):
            self.compute_once(data)

    def compute_once(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders), label="holder")
        known, begin = self.known(), len(holder.tokens)
        path = self.draw_path(data)
        if path[:begin] != holder.tokens:
            path = holder.tokens + data.draw(pieces, label="ahead")
        tokens = path[begin:]
        done = self.tree.insert_prefix(holder.node, tokens, holder.sequence, self.now)
        shared = [n for n in range(begin + 1, len(path) + 1) if tuple(path[:n]) in known]
        assert done.shared == len(shared)
        if done.shared:
            assert done.donor is not None
            end = begin + done.shared
            assert self.covers[done.donor][:end] == path[:end]
        holder.tokens, holder.node = path, done.node
        self.covers[holder.sequence] = path
        assert done.node.end == len(path)
        if done.released is not None and all(h.sequence != done.released for h in self.holders):
            del self.covers[done.released]

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        if holder.node.owner != holder.sequence:
            del self.covers[holder.sequence]
        self.tree.unlock(holder.node)
        self.holders.remove(holder)

    @rule(tokens=st.integers(1, 100))
    def evict(self, tokens: int) -> None:
        size, room = self.tree.size, self.tree.evictable
        self.forget(self.tree.evict(tokens))
        assert size - self.tree.size == min(tokens, room)

    @rule()
    def evict_sequence(self) -> None:
        before = self.tree.owners()
        evicted = self.tree.evict_sequence()
        self.forget(evicted)
        freed = [owner for owner, keep in evicted if keep == 0]
        assert freed == sorted(before - self.tree.owners())
        assert len(freed) <= 1
        if not freed:
            assert self.tree.evictable == 0

    @rule(secret=st.sampled_from([b"secret", b"other"]))
    def rekey(self, secret: bytes) -> None:
        self.secret = secret
        self.tree.rekey(secret)

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.tree.check_integrity()
        known = self.known()
        assert self.tree.size == len(known)
        held = {tuple(h.tokens[:n]) for h in self.holders for n in range(1, len(h.tokens) + 1)}
        assert self.tree.evictable == len(known - held)
        for owner in self.tree.owners():
            match = self.tree.match_prefix(self.covers[owner])
            assert match.length == len(self.covers[owner]) == match.node.end
            assert match.node.owner == owner

    @rule()
    def tell(self) -> None:
        """Every block is told once, however much came and went since the last time."""
        changes = self.tree.take_changes()
        if changes is not None:
            if changes.reset:
                self.told.clear()
            assert not self.told.intersection(changes.added)
            assert self.told.issuperset(changes.removed)
            self.told = self.told.union(changes.added).difference(changes.removed)
        assert self.told == {
            block
            for tokens in self.covers.values()
            for block in block_hashes(self.secret, MODEL_KEY, tokens)
        }


RadixMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRadixTree = RadixMachine.TestCase


def leave_behind(tree: RadixTree, tokens: list[int], owner: int, now: float) -> None:
    """What a finished request leaves: its path, unlocked."""
    match = tree.match_prefix(tokens)
    node = tree.lock(match, now)
    tree.unlock(tree.insert_prefix(node, tokens[match.length :], owner, now).node)


def test_a_parent_is_told_before_its_children() -> None:
    tree = RadixTree(SECRET, MODEL_KEY)
    tokens = list(range(100))
    leave_behind(tree, tokens, owner=1, now=0)
    changes = tree.take_changes()
    assert changes is not None
    assert changes.added == block_hashes(SECRET, MODEL_KEY, tokens)


def test_the_longest_unused_goes_first_and_from_its_end() -> None:
    tree = RadixTree(SECRET, MODEL_KEY)
    leave_behind(tree, [1, 2, 3, 4], owner=1, now=0)
    leave_behind(tree, [5, 6, 7, 8], owner=2, now=1)
    assert tree.evict(3) == [Evicted(owner=1, keep=1)]
    assert tree.match_prefix([1, 2, 3, 4]).length == 1
    assert tree.evict(2) == [Evicted(owner=1, keep=0), Evicted(owner=2, keep=3)]


def test_the_next_turn_of_a_conversation_takes_over_the_edge() -> None:
    tree = RadixTree(SECRET, MODEL_KEY)
    leave_behind(tree, [1, 2], owner=1, now=0)
    node = tree.lock(tree.match_prefix([1, 2, 3]), now=1)
    done = tree.insert_prefix(node, [3], owner=2, now=1)
    assert done.released == 1
    assert tree.owners() == {2}
    assert done.node.tokens == [1, 2, 3]
