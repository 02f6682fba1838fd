"""The token radix tree: which prefixes are in the KV cache, and who may not lose them.

Token ranges are half open. A node's edge holds the tokens ``[start, end)`` of every sequence that
runs through it. A leaf *owns* one KV sequence, which covers the root down to the leaf; an inner
node owns none, for the sequence of any leaf below covers it.

Whoever computes holds a *lock*: a node that ends exactly where the holder's tokens end. A lock
keeps the node and all its ancestors. The tree stays canonical: a node has two children or more,
or is a leaf, or somebody's lock ends at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from overlay.prefix.chain import BLOCK_TOKENS, extend, root_hash


@dataclass(slots=True, eq=False)
class Node:
    """An edge and what hangs below it."""

    start: int
    tokens: list[int]
    parent: Node | None
    owner: int | None = None
    locks: int = 0
    last_used: float = 0.0
    children: dict[int, Node] = field(default_factory=dict)
    #: Chained hashes of the blocks whose last token is in this edge, in order.
    hashes: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def holders(self) -> int:
        """Locks that end exactly here."""
        return self.locks - sum(child.locks for child in self.children.values())


class Match(NamedTuple):
    """The longest cached prefix: it ends within ``node``, after ``length`` tokens of the prompt."""

    node: Node
    length: int


class Inserted(NamedTuple):
    """Where the tokens ended up.

    The first ``shared`` of them were in the tree already, covered by the sequence ``donor``.
    ``released`` is a sequence that the tree owned until now and needs no longer.
    """

    node: Node
    shared: int
    donor: int | None
    released: int | None


class Evicted(NamedTuple):
    """The sequence ``owner`` must forget its tokens from ``keep`` on; 0: all, it is free."""

    owner: int
    keep: int


class Changes(NamedTuple):
    """Block hashes that came and went since the last look; ``reset``: forget all earlier ones."""

    added: tuple[int, ...]
    removed: tuple[int, ...]
    reset: bool


class RadixTree:
    """Compressed prefix tree over tokens, with locks, LRU eviction and block hashes."""

    def __init__(self, mesh_secret: bytes, model_key: bytes) -> None:
        self._secret = mesh_secret
        self._model_key = model_key
        self.root = Node(start=0, tokens=[], parent=None)
        #: Tokens in all edges, and in those that no lock keeps.
        self.size = 0
        self.evictable = 0
        # hash -> True (came) or False (went); insertion order keeps parents before children.
        self._pending: dict[int, bool] = {}
        self._reset = False

    # --- the six verbs ------------------------------------------------------------------------

    def match_prefix(
        self, tokens: Sequence[int], at: Node | None = None, limit: int | None = None
    ) -> Match:
        """Longest prefix of ``tokens[:limit]`` in the tree; changes nothing.

        ``at``: a locked node that is known to lie on the path; the search starts at its end.
        """
        node = self.root if at is None else at
        return _walk(node, tokens, node.end, len(tokens) if limit is None else limit)

    def lock(self, match: Match, now: float) -> Node:
        """Keep the matched prefix from eviction; the returned node ends exactly with it."""
        node = match.node
        if match.length < node.end:
            node = self._split(node, match.length)
        step: Node | None = node
        while step is not None:
            if step.locks == 0:
                self.evictable -= len(step.tokens)
            step.locks += 1
            step.last_used = now
            step = step.parent
        return node

    def unlock(self, node: Node) -> None:
        """Give up a lock that ends at ``node``; the node may be merged away by this."""
        assert node.holders > 0, "not locked"
        step: Node | None = node
        while step is not None:
            step.locks -= 1
            if step.locks == 0:
                self.evictable += len(step.tokens)
            step = step.parent
        self._merge(node)

    def insert_prefix(self, at: Node, tokens: Sequence[int], owner: int, now: float) -> Inserted:
        """Add ``tokens`` after the locked node ``at``; the caller's lock moves to their end.

        ``owner`` is the sequence that holds them, and everything above, in the KV cache.
        """
        assert at.holders > 0, "insert needs a lock"
        total = at.end + len(tokens)
        found, shared = _walk(at, tokens, 0, len(tokens))
        match = Match(found, at.end + shared)
        donor = self.owner_below(match.node) if shared else None
        if shared == 0:
            node = at
        else:
            node = self.lock(match, now)
            self.unlock(at)
        if node.end == total:
            return Inserted(node, shared, donor, None)
        rest = list(tokens[shared:])
        leaf = not node.children
        released = node.owner if leaf and node.owner != owner else None
        if leaf and node.locks == 1 and node is not self.root:
            # Nobody else's lock ends here, so the edge can simply grow.
            node.tokens += rest
        else:
            child = Node(node.end, rest, node, locks=1)
            node.owner = None
            node.children[rest[0]] = child
            node = child
        node.owner = owner
        node.last_used = now
        self.size += len(rest)
        self._hash_tail(node)
        if node.parent is not None:
            self._merge(node.parent)
        return Inserted(node, shared, donor, released)

    def evict(self, tokens: int) -> list[Evicted]:
        """Free up to ``tokens`` tokens (less if locks forbid), tails of the oldest leaves first."""
        evicted = []
        while tokens > 0 and (leaf := self._oldest_leaf()) is not None:
            cut = min(tokens, len(leaf.tokens))
            evicted.append(self._cut(leaf, cut))
            tokens -= cut
        return evicted

    def evict_sequence(self) -> list[Evicted]:
        """Free one sequence, if locks allow: whole leaves, oldest first."""
        evicted = []
        while (leaf := self._oldest_leaf()) is not None:
            evicted.append(self._cut(leaf, len(leaf.tokens)))
            if evicted[-1].keep == 0:
                break
        return evicted

    def check_integrity(self) -> None:
        """Assert every invariant named in this module; for tests."""
        size = evictable = 0
        owners: list[int] = []
        for node in self._nodes():
            size += len(node.tokens)
            evictable += 0 if node.locks else len(node.tokens)
            assert node.holders >= 0, "children have more locks than their parent"
            for first, child in node.children.items():
                assert child.parent is node
                assert child.tokens, "an empty edge"
                assert child.tokens[0] == first
                assert child.start == node.end
            if node is self.root:
                continue
            assert (node.owner is None) == bool(node.children), "leaves own, inner nodes do not"
            if node.owner is not None:
                owners.append(node.owner)
            assert len(node.children) != 1 or node.holders, "a node that should have been merged"
            count = node.end // BLOCK_TOKENS - node.start // BLOCK_TOKENS
            assert len(node.hashes) == count, "hashes do not fit the edge"
        assert len(owners) == len(set(owners)), "a sequence owns two leaves"
        assert (size, evictable) == (self.size, self.evictable)

    # --- more about it ------------------------------------------------------------------------

    def owner_below(self, node: Node) -> int | None:
        """A sequence that covers the root down to the end of ``node``; None for an empty tree."""
        while node.children:
            node = next(iter(node.children.values()))
        return node.owner

    def owners(self) -> set[int]:
        """All sequences that the tree owns."""
        return {node.owner for node in self._nodes() if node.owner is not None}

    def evictable_beside(self, match: Match) -> int:
        """Tokens that could be evicted while ``match`` is kept."""
        kept, node = 0, match.node
        if node.locks == 0:
            kept += match.length - node.start
        step = node.parent
        while step is not None and step.locks == 0:
            kept += len(step.tokens)
            step = step.parent
        return self.evictable - kept

    def rekey(self, mesh_secret: bytes) -> None:
        """Hash everything anew, under another mesh secret."""
        self._secret = mesh_secret
        self._pending.clear()
        self._reset = True
        for node in self._nodes():
            node.hashes = []
            self._hash_tail(node)

    def take_changes(self) -> Changes | None:
        """Hash changes since the last call; None if there are none."""
        if not self._pending and not self._reset:
            return None
        added = tuple(block for block, came in self._pending.items() if came)
        removed = tuple(block for block, came in self._pending.items() if not came)
        changes = Changes(added, () if self._reset else removed, self._reset)
        self._pending, self._reset = {}, False
        return changes

    # --- structure ----------------------------------------------------------------------------

    def _nodes(self) -> Iterator[Node]:
        """All nodes, parents first."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def _split(self, node: Node, depth: int) -> Node:
        """Cut the edge at ``depth``; returns the new upper part. ``node`` becomes the lower one."""
        parent = node.parent
        assert parent is not None
        assert node.start < depth < node.end
        at = depth - node.start
        blocks = depth // BLOCK_TOKENS - node.start // BLOCK_TOKENS
        upper = Node(
            node.start,
            node.tokens[:at],
            parent,
            locks=node.locks,
            last_used=node.last_used,
            children={node.tokens[at]: node},
            hashes=node.hashes[:blocks],
        )
        parent.children[upper.tokens[0]] = upper
        node.start, node.tokens, node.parent = depth, node.tokens[at:], upper
        node.hashes = node.hashes[blocks:]
        return upper

    def _merge(self, upper: Node) -> None:
        """Join ``upper`` with its only child, unless somebody's lock ends between them."""
        if upper is self.root or len(upper.children) != 1 or upper.holders:
            return
        (child,) = upper.children.values()
        parent = upper.parent
        assert parent is not None
        child.start, child.parent = upper.start, parent
        child.tokens = upper.tokens + child.tokens
        child.hashes = upper.hashes + child.hashes
        parent.children[child.tokens[0]] = child

    def _oldest_leaf(self) -> Node | None:
        leaves = (node for node in self._nodes() if node.owner is not None and node.locks == 0)
        return min(leaves, key=lambda node: (node.last_used, node.owner), default=None)

    def _cut(self, leaf: Node, count: int) -> Evicted:
        """Remove the last ``count`` tokens of an unlocked leaf."""
        owner, parent = leaf.owner, leaf.parent
        assert owner is not None
        assert parent is not None
        assert leaf.locks == 0
        keep = leaf.end - count
        for block in leaf.hashes[max(0, keep // BLOCK_TOKENS - leaf.start // BLOCK_TOKENS) :]:
            self._note(block, came=False)
        self.size -= count
        self.evictable -= count
        if keep > leaf.start:
            del leaf.tokens[keep - leaf.start :]
            del leaf.hashes[keep // BLOCK_TOKENS - leaf.start // BLOCK_TOKENS :]
            return Evicted(owner, keep)
        del parent.children[leaf.tokens[0]]
        if parent is self.root or parent.children:
            self._merge(parent)
            return Evicted(owner, 0)
        # A lock ends at the parent: it is a leaf again, and inherits the sequence.
        parent.owner = owner
        return Evicted(owner, keep)

    # --- hashes -------------------------------------------------------------------------------

    def _hash_tail(self, node: Node) -> None:
        """Hash the blocks at the end of the edge that have no hash yet."""
        block = node.start // BLOCK_TOKENS + len(node.hashes)
        last = node.end // BLOCK_TOKENS
        if block >= last:
            return
        begin = block * BLOCK_TOKENS
        tokens = self._path_tokens(node, begin)
        parent = self._hash_before(node)
        for offset in range(0, (last - block) * BLOCK_TOKENS, BLOCK_TOKENS):
            parent = extend(self._secret, parent, tokens[offset : offset + BLOCK_TOKENS])
            node.hashes.append(parent)
            self._note(parent, came=True)

    def _path_tokens(self, node: Node, begin: int) -> list[int]:
        """Tokens of the path from depth ``begin`` to the end of ``node``."""
        tokens = node.tokens[max(0, begin - node.start) :]
        while node.start > begin:
            assert node.parent is not None
            node = node.parent
            tokens = node.tokens[max(0, begin - node.start) :] + tokens
        return tokens

    def _hash_before(self, node: Node) -> int:
        step: Node | None = node
        while step is not None:
            if step.hashes:
                return step.hashes[-1]
            step = step.parent
        return root_hash(self._secret, self._model_key)

    def _note(self, block: int, *, came: bool) -> None:
        if self._pending.get(block) is (not came):
            # It went and came back, or the other way round: nothing to tell.
            del self._pending[block]
        else:
            self._pending[block] = came


def _walk(node: Node, tokens: Sequence[int], begin: int, end: int) -> Match:
    """Follow ``tokens[begin:end]`` down from the end of ``node``; the length is an index."""
    while begin < end and (child := node.children.get(tokens[begin])) is not None:
        node = child
        shared = _common(node.tokens, tokens, begin, end)
        begin += shared
        if shared < len(node.tokens):
            break
    return Match(node, begin)


def _common(edge: list[int], tokens: Sequence[int], begin: int, end: int) -> int:
    """How many tokens of ``edge`` agree with ``tokens[begin:end]``."""
    count = min(len(edge), end - begin)
    theirs = list(tokens[begin : begin + count])
    if edge[:count] == theirs:
        return count
    low, high = 0, count  # edge[:low] agrees, edge[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if edge[low:middle] == theirs[low:middle]:
            low = middle
        else:
            high = middle
    return low
