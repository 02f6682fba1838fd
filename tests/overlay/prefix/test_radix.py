"""The radix tree against a model of plain lists, after every step."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlay.prefix.chain import block_hashes
from overlay.prefix.node import Node, Piece
from overlay.prefix.radix import Evicted, RadixTree
from tests.support.radix_check import check_integrity

SECRET, MODEL_KEY = b"secret", b"model"
PIECE_TOKENS = 20
#: Bounds of what a run has, as the model takes quadratic time.
HOLDERS, LONG = 4, 70

# Few tokens, so that prefixes are shared; runs of them, so that blocks fill and end mid-edge.
runs = st.tuples(st.integers(0, 1), st.sampled_from([1, 2, 31, 32, 33]))
pieces = st.lists(runs, min_size=1, max_size=3).map(
    lambda runs: [token for token, count in runs for _ in range(count)]
)


def prefixes(tokens: list[int], after: int = 0) -> set[tuple[int, ...]]:
    """All beginnings of the tokens that are longer than ``after``."""
    return {tuple(tokens[:length]) for length in range(after + 1, len(tokens) + 1)}


def cut_up(start: int, end: int) -> list[Piece]:
    return [Piece(at, min(at + PIECE_TOKENS, end)) for at in range(start, end, PIECE_TOKENS)]


@dataclass
class Holder:
    """Somebody who computes: its sequence, its tokens so far, and its lock."""

    sequence: int
    tokens: list[int]
    node: Node


class RadixMachine(RuleBasedStateMachine):
    """Holders come, compute and go; the model knows what each KV sequence and each piece covers."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = RadixTree(SECRET, MODEL_KEY, capacity=200)
        self.sequences = 0
        #: What each sequence, of the tree or of a holder, covers.
        self.covers: dict[int, list[int]] = {}
        #: Prefixes that are spilled, and the path of every piece that is in use.
        self.spilled: set[tuple[int, ...]] = set()
        self.kept: dict[int, tuple[Piece, list[int]]] = {}
        #: Pieces that were given up, with their paths.
        self.lost: list[tuple[Piece, list[int]]] = []
        self.holders: list[Holder] = []
        self.told: set[int] = set()
        self.secret = SECRET
        self.copies: dict[int, int] = {}

    def resident(self) -> set[tuple[int, ...]]:
        """All prefixes in the KV cache."""
        return {prefix for tokens in self.covers.values() for prefix in prefixes(tokens)}

    def known(self) -> set[tuple[int, ...]]:
        return self.resident() | self.spilled

    def forget(self, evicted: Evicted) -> None:
        owner, keep = evicted
        assert all(holder.sequence != owner for holder in self.holders)
        del self.covers[owner][keep:]
        if keep == 0:
            del self.covers[owner]

    def draw_path(self, data: st.DataObject) -> list[int]:
        """Often the beginning of a path that is known, and something new after it."""
        spilled = [list(path) for path in sorted(self.spilled, key=lambda p: (-len(p), p))[:3]]
        path = data.draw(st.sampled_from([[], *self.covers.values(), *spilled]), label="known path")
        cut = data.draw(st.sampled_from([len(path), len(path) // 2, 0]), label="cut")
        return path[: min(cut, LONG)] + data.draw(st.just([]) | pieces, label="new")

    @initialize(data=st.data(), spilled=st.integers(0, 100))
    def begin(self, data: st.DataObject, spilled: int) -> None:
        """With something in every tier, or a run without some of the rules would get nowhere."""
        for _ in range(2):
            holder = self.arrive_one(data, hit=False)
            self.compute_once(data, holder)
            self.leave_one(holder)
        self.evict(spilled, spill=True)

    @precondition(lambda self: len(self.holders) < HOLDERS)
    @rule(data=st.data(), hit=st.booleans())
    def arrive(self, data: st.DataObject, hit: bool) -> None:
        self.arrive_one(data, hit)

    def arrive_one(self, data: st.DataObject, hit: bool) -> Holder:
        tokens = self.draw_path(data)
        match = self.tree.match_prefix(tokens)
        assert match.length == max(
            (len(prefix) for prefix in prefixes(tokens) & self.known()), default=0
        )
        if hit:
            match = self.tree.hit(match)
            assert match.node.end == match.length
        match = self.tree.resident_part(match)
        assert match.length == max(
            (len(prefix) for prefix in prefixes(tokens) & self.resident()), default=0
        )
        room = self.tree.evictable_beside(match)
        node = self.tree.lock(match)
        assert node.end == match.length
        assert self.tree.evictable == room
        donor = self.tree.owner_below(node)
        if match.length:
            assert donor is not None
            assert self.covers[donor][: match.length] == tokens[: match.length]
        holder = Holder(self.sequences, tokens[: match.length], node)
        self.holders.append(holder)
        self.covers[holder.sequence] = holder.tokens
        self.sequences += 1
        return holder

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, 3), label="times")):
            self.compute_once(data, data.draw(st.sampled_from(self.holders), label="holder"))

    def compute_once(self, data: st.DataObject, holder: Holder) -> None:
        begin = len(holder.tokens)
        path = self.draw_path(data)
        if path[:begin] != holder.tokens:
            path = holder.tokens + (data.draw(pieces, label="ahead") if begin < LONG else [])
        shared = prefixes(path, begin) & self.resident()
        done = self.tree.insert_prefix(holder.node, path[begin:], holder.sequence)
        assert done.shared == len(shared)
        if done.shared:
            assert done.donor is not None
            end = begin + done.shared
            assert self.covers[done.donor][:end] == path[:end]
        self.spilled -= prefixes(path)
        holder.tokens, holder.node = path, done.node
        self.covers[holder.sequence] = path
        assert done.node.end == len(path)
        if done.released is not None and all(h.sequence != done.released for h in self.holders):
            del self.covers[done.released]

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.leave_one(data.draw(st.sampled_from(self.holders)))

    def leave_one(self, holder: Holder) -> None:
        if holder.node.owner != holder.sequence:
            del self.covers[holder.sequence]
        self.tree.unlock(holder.node)
        self.holders.remove(holder)

    @precondition(lambda self: self.tree.evictable)
    @rule(tokens=st.integers(1, 100), spill=st.booleans())
    def evict(self, tokens: int, spill: bool) -> None:
        while tokens and (tip := self.tree.coldest_tip()) is not None:
            path = tip.path()
            keep = max(tip.start, tip.end - tokens)
            tokens -= tip.end - keep
            cut = cut_up(keep, tip.end) if spill else []
            self.kept |= {id(piece): (piece, path[: piece.end]) for piece in cut}
            self.forget(self.tree.cut(tip, keep, cut))
            if spill:
                self.spilled |= prefixes(path, keep)
            else:
                lost = tuple(path[: keep + 1])
                self.spilled = {p for p in self.spilled if p[: len(lost)] != lost}
        assert not tokens or self.tree.evictable == 0

    @precondition(lambda self: self.spilled)
    @rule()
    def forget_spilled(self) -> None:
        leaf = self.tree.coldest_spilled()
        assert leaf is not None
        assert leaf.pieces
        path = leaf.path()
        keep = max(leaf.start, leaf.pieces[-1].start)
        self.tree.forget(leaf)
        self.spilled -= prefixes(path, keep)

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        piece, path = data.draw(st.sampled_from(self.lost))
        known = max((len(prefix) for prefix in prefixes(path) & self.known()), default=0)
        fits = piece.start <= known < piece.end
        assert self.tree.adopt(path, piece) == fits
        if fits:
            self.lost = [entry for entry in self.lost if entry[0] is not piece]
            self.kept[id(piece)] = (piece, path)
            self.spilled |= prefixes(path, known)

    @precondition(lambda self: self.tree.size)
    @rule(secret=st.sampled_from([b"secret", b"other"]))
    def rekey(self, secret: bytes) -> None:
        self.secret = secret
        self.tree.rekey(secret)

    @precondition(lambda self: self.tree.size)
    @rule(copied=st.dictionaries(st.integers(0, 20), st.integers(0, 100), max_size=4))
    def copies_change(self, copied: dict[int, int]) -> None:
        known = [block for node in self.tree.nodes() for block in node.hashes]
        changed = {known[n % len(known)]: tokens for n, tokens in copied.items() if known}
        self.tree.copies_changed(changed)
        self.copies = {b: tokens for b, tokens in (self.copies | changed).items() if tokens}

    @invariant()
    def agrees_with_the_model(self) -> None:
        check_integrity(self.tree)
        resident = self.resident()
        assert not resident & self.spilled
        assert self.tree.size == len(resident)
        held = {prefix for holder in self.holders for prefix in prefixes(holder.tokens)}
        assert self.tree.evictable == len(resident - held)
        assert (self.tree.coldest_tip() is None) == (not self.tree.evictable)
        assert (self.tree.coldest_spilled() is None) == (not self.spilled)
        nodes = list(self.tree.nodes())
        for node in nodes:
            if node.owner is not None:
                assert self.covers[node.owner][: node.end] == node.path()
        spilled = [node for node in nodes if not node.resident]
        assert sum(len(node.tokens) for node in spilled) == len(self.spilled)
        for node in spilled:
            path = tuple(node.path())
            assert path in self.spilled
            for piece in node.pieces or ():
                covered = min(piece.end, node.end)
                assert tuple(self.kept[id(piece)][1][:covered]) == path[:covered]

    @invariant()
    def pieces_are_given_up_once(self) -> None:
        for piece in self.tree.released:
            assert not piece.uses
            self.lost.append(self.kept.pop(id(piece)))
        self.tree.released.clear()
        used = {id(piece) for node in self.tree.nodes() for piece in node.pieces or ()}
        assert used == set(self.kept)

    @precondition(lambda self: self.tree.size)
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
            for tokens in self.known()
            for block in block_hashes(self.secret, MODEL_KEY, tokens)
        }


RadixMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestRadixTree = RadixMachine.TestCase


def new_tree() -> RadixTree:
    return RadixTree(SECRET, MODEL_KEY, capacity=100)


def leave_behind(tree: RadixTree, tokens: list[int], owner: int) -> None:
    """What a finished request leaves: its path, unlocked."""
    match = tree.hit(tree.match_prefix(tokens))
    node = tree.lock(match)
    tree.unlock(tree.insert_prefix(node, tokens[match.length :], owner).node)


def test_a_parent_is_told_before_its_children() -> None:
    tree = new_tree()
    tokens = list(range(100))
    leave_behind(tree, tokens, owner=1)
    changes = tree.take_changes()
    assert changes is not None
    assert changes.added == block_hashes(SECRET, MODEL_KEY, tokens)


def coldest(tree: RadixTree) -> list[int]:
    tip = tree.coldest_tip()
    assert tip is not None
    return tip.path()


def test_the_longest_unused_goes_first_and_from_its_end() -> None:
    tree = new_tree()
    leave_behind(tree, [1, 2, 3, 4], owner=1)
    leave_behind(tree, [5, 6, 7, 8], owner=2)
    tip = tree.coldest_tip()
    assert tip is not None
    assert tree.cut(tip, keep=1) == Evicted(owner=1, keep=1)
    assert tree.match_prefix([1, 2, 3, 4]).length == 1
    assert coldest(tree) == [1]


def test_what_was_hit_outlives_what_was_not() -> None:
    tree = new_tree()
    leave_behind(tree, [1, 2, 3], owner=1)
    leave_behind(tree, [1, 2, 3, 4], owner=2)
    leave_behind(tree, [5, 6, 7], owner=3)
    assert coldest(tree) == [1, 2, 3, 4]
    tip = tree.coldest_tip()
    assert tip is not None
    assert tree.cut(tip, keep=3) == Evicted(owner=2, keep=3)
    assert coldest(tree) == [5, 6, 7]


#: A block each, computed within a third of a turn-over.
FIRST, SECOND = list(range(32)), list(range(100, 132))


def tree_of_two() -> RadixTree:
    tree = new_tree()
    for owner, tokens in ((1, FIRST), (2, SECOND)):
        leave_behind(tree, tokens, owner)
    return tree


def with_copies(tree: RadixTree, tokens: list[int], cost: int) -> None:
    """The prefix can be had elsewhere, at the cost of computing so many tokens."""
    tree.copies_changed({block_hashes(SECRET, MODEL_KEY, tokens)[-1]: cost})


def test_what_can_be_had_elsewhere_goes_first() -> None:
    tree = tree_of_two()
    with_copies(tree, SECOND, 1)
    assert coldest(tree) == SECOND
    with_copies(tree, SECOND, 0)
    assert coldest(tree) == FIRST, "it has gone there"


def test_the_nearer_a_copy_is_the_sooner_this_one_goes() -> None:
    tree = tree_of_two()
    with_copies(tree, FIRST, 16)
    with_copies(tree, SECOND, 8)
    assert coldest(tree) == SECOND
    with_copies(tree, SECOND, 31)
    assert coldest(tree) == FIRST


def test_a_copy_that_is_dearer_than_the_computation_is_worth_nothing() -> None:
    tree = tree_of_two()
    with_copies(tree, SECOND, 33)
    assert coldest(tree) == FIRST


def test_what_can_be_had_elsewhere_is_forgotten_first_once_it_is_spilled() -> None:
    tree = new_tree()
    for owner, tokens in ((1, FIRST), (2, SECOND)):
        leave_behind(tree, tokens, owner)
        tip = tree.coldest_tip()
        assert tip is not None
        tree.cut(tip, 0, [Piece(0, 32)])
    with_copies(tree, SECOND, 1)
    leaf = tree.coldest_spilled()
    assert leaf is not None
    assert leaf.path() == SECOND


def test_what_was_hit_once_ages_as_the_cache_turns_over() -> None:
    tree = new_tree()
    leave_behind(tree, [1, 2, 3], owner=1)
    leave_behind(tree, [1, 2, 3], owner=2)
    leave_behind(tree, list(range(1000, 1110)), owner=3)  # more than the capacity
    assert coldest(tree) == [1, 2, 3]


def test_the_next_turn_of_a_conversation_takes_over_the_sequence() -> None:
    tree = new_tree()
    leave_behind(tree, [1, 2], owner=1)
    node = tree.lock(tree.match_prefix([1, 2, 3]))
    done = tree.insert_prefix(node, [3], owner=2)
    assert done.released == 1
    assert done.node.path() == [1, 2, 3]
    assert done.node.owner == 2
