"""The token radix tree: every prefix that this machine can reuse, and who may not lose it.

Token ranges are half open. A node's edge holds the tokens ``[start, end)`` of every path that runs
through it. A node is *resident*, with its tokens in the KV cache, or *spilled*, with their state in
`Piece`s elsewhere. What hangs below a spilled node is spilled too.

A resident node without resident children is a *tip*. It *owns* one KV sequence, which covers the
root down to the tip; other nodes own none, for the sequence of any tip below covers them.

Whoever computes holds a *lock*: a resident node that ends exactly where the holder's tokens end. A
lock keeps the node and all its ancestors. The tree stays canonical: a node and its only child are
one, unless a lock ends between them, only one of them is resident, or they differ in hits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from overlay.prefix.chain import BLOCK_TOKENS, extend, root_hash
from overlay.prefix.changes import ChangeLog, Changes
from overlay.prefix.eviction import EvictionQueue, elsewhere, worth
from overlay.prefix.node import Match, Node, Piece, common, is_one, join, split, walk


class Inserted(NamedTuple):
    """Where the tokens ended up.

    The first ``shared`` of them were resident already, covered by the sequence ``donor``.
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


class RadixTree:
    """Compressed prefix tree over tokens, with locks, tiers, an order of eviction, block hashes.

    ``capacity``: tokens that the KV cache holds.
    """

    def __init__(self, mesh_secret: bytes, model_key: bytes, capacity: int) -> None:
        self._secret = mesh_secret
        self._model_key = model_key
        self._capacity = capacity
        self.root = Node(start=0, tokens=[], parent=None)
        #: Tokens in resident edges, and in those of them that no lock keeps.
        self.size = 0
        self.evictable = 0
        #: Pieces that no node needs any longer; their keeper takes them off.
        self.released: list[Piece] = []
        self._clock = 0.0
        self._tips: EvictionQueue[Node] = EvictionQueue(self._may_leave)
        self._spilled: EvictionQueue[Node] = EvictionQueue(self._may_go)
        self._changes = ChangeLog()
        #: Blocks that can be had elsewhere: see `copies_changed`.
        self._copies: dict[int, int] = {}

    # --- the verbs of a request ---------------------------------------------------------------

    def match_prefix(
        self, tokens: Sequence[int], at: Node | None = None, limit: int | None = None
    ) -> Match:
        """Longest prefix of ``tokens[:limit]`` in the tree; changes nothing.

        ``at``: a node that is known to lie on the path; the search starts at its end.
        """
        node = self.root if at is None else at
        return walk(node, tokens, node.end, len(tokens) if limit is None else limit)

    def resident_part(self, match: Match) -> Match:
        """As much of the match as is in the KV cache."""
        node, length = match
        while not node.resident:
            assert node.parent is not None
            node = node.parent
            length = node.end
        return Match(node, length)

    def hit(self, match: Match) -> Match:
        """A request reuses the match, which counts; returns it as it is from now on."""
        node = match.node
        if match.length < node.end:
            node = split(node, match.length)
        step = node
        while step.parent is not None:
            step.hits += 1
            self._use(step)
            self._offer(step)
            step = step.parent
        return Match(node, match.length)

    def lock(self, match: Match) -> Node:
        """Keep the match, which is resident, from eviction; the node returned ends with it."""
        node = match.node
        assert node.resident, "only what is in the KV cache can be locked"
        if match.length < node.end:
            node = split(node, match.length)
        step: Node | None = node
        while step is not None:
            if step.locks == 0:
                self.evictable -= len(step.tokens)
            step.locks += 1
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
                self._use(step)
                self._offer(step)
            step = step.parent
        self._merge(node)

    def insert_prefix(self, at: Node, tokens: Sequence[int], owner: int) -> Inserted:
        """Add ``tokens`` after the locked node ``at``; the caller's lock moves to their end.

        ``owner`` is the sequence that holds them, and everything above, in the KV cache. Spilled
        nodes on the way are resident from now on.
        """
        assert at.holders > 0, "insert needs a lock"
        total = at.end + len(tokens)
        found, shared = walk(at, tokens, 0, len(tokens), resident=True)
        donor = self.owner_below(found) if shared else None
        if shared == 0:
            node = at
        else:
            node = self.lock(Match(found, at.end + shared))
            self.unlock(at)
        if node.end == total:
            return Inserted(node, shared, donor, None)
        released = node.owner if node.owner != owner else None
        top = node
        node = self._revive(node, tokens[shared:], owner)
        if node.end < total:
            node = self._append(node, tokens[len(tokens) - (total - node.end) :], owner)
        self._clock += (total - top.end) / self._capacity
        self._merge(top)
        return Inserted(node, shared, donor, released)

    # --- the verbs of memory ------------------------------------------------------------------

    def coldest_tip(self) -> Node | None:
        """The tip that should leave the KV cache first; None if locks forbid all."""
        return self._tips.coldest()

    def cut(self, tip: Node, keep: int, pieces: Sequence[Piece] = ()) -> Evicted:
        """The tokens of a tip from depth ``keep`` on leave the KV cache.

        ``pieces`` hold their state and cover them. Without any, they are forgotten, and so is all
        that was spilled below them.
        """
        owner = tip.owner
        assert owner is not None
        assert tip.locks == 0
        assert tip.is_tip
        assert tip.start <= keep < tip.end
        if keep > tip.start:
            split(tip, keep)
        tip.owner = None
        self.size -= len(tip.tokens)
        self.evictable -= len(tip.tokens)
        parent = tip.parent
        assert parent is not None
        if pieces:
            tip.pieces = []
            self._attach(tip, pieces)
            self._merge(tip)
            self._offer(tip)
        else:
            self._remove(tip)
        return self._inherit(parent, owner)

    def coldest_spilled(self) -> Node | None:
        """The spilled leaf that should be forgotten first."""
        return self._spilled.coldest()

    def forget(self, leaf: Node) -> None:
        """Forget the last piece of a spilled leaf."""
        assert leaf.pieces
        assert not leaf.children
        self._forget(leaf, leaf.pieces[-1].start)

    def lose(self, piece: Piece) -> None:
        """A piece is no more: forget what it held, and all that was spilled below."""
        # Parents come first, and whoever else needs it is below.
        top = next((node for node in self.nodes() if piece in (node.pieces or ())), None)
        if top is not None:
            self._forget(top, piece.start)

    def adopt(self, tokens: Sequence[int], piece: Piece) -> bool:
        """Take in a piece that was kept since an earlier start; ``tokens``: its whole path.

        False if it adds nothing, or if what comes before it is missing.
        """
        node, length = self.match_prefix(tokens)
        if not piece.start <= length < piece.end == len(tokens):
            return False
        if length < node.end:
            node = split(node, length)
        child = Node(length, list(tokens[length:]), node, pieces=[])
        node.children[child.tokens[0]] = child
        self._attach(child, [piece])
        self._use(child)
        self._hash_tail(child)
        self._offer(child)
        self._merge(node)
        return True

    def copies_changed(self, changed: Mapping[int, int]) -> None:
        """See `models.engine.Engine.copies_changed`."""
        self._copies |= changed
        for block in [block for block, tokens in changed.items() if not tokens]:
            del self._copies[block]
        for node in self.nodes():
            if node.hashes and node.hashes[-1] in changed:
                self._offer(node)

    # --- more about it ------------------------------------------------------------------------

    def owner_below(self, node: Node) -> int | None:
        """A sequence that covers the root down to a resident ``node``; None for an empty tree."""
        while not node.is_tip:
            node = next(child for child in node.children.values() if child.resident)
        return node.owner

    def evictable_beside(self, match: Match) -> int:
        """Tokens that could leave the KV cache while the resident ``match`` is kept."""
        kept, node = 0, match.node
        if node.locks == 0:
            kept += match.length - node.start
        step = node.parent
        while step is not None and step.locks == 0:
            kept += len(step.tokens)
            step = step.parent
        return self.evictable - kept

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents first."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def rekey(self, mesh_secret: bytes) -> None:
        """Hash everything anew, under another mesh secret."""
        self._secret = mesh_secret
        self._changes.reset()
        for node in self.nodes():
            node.hashes = []
            self._hash_tail(node)

    def take_changes(self) -> Changes | None:
        """Block hashes that came and went since the last call; None if there are none."""
        return self._changes.take()

    # --- structure ----------------------------------------------------------------------------

    def _merge(self, upper: Node) -> None:
        """Join a node with its only child, if they need not be apart."""
        if upper is not self.root and is_one(upper):
            self._offer(join(upper))

    def _append(self, node: Node, tokens: Sequence[int], owner: int) -> Node:
        """Put new tokens after the end of a resident node, at which a lock ends."""
        rest = list(tokens)
        if not node.children and node.locks == 1 and node is not self.root and not node.hits:
            # Nobody else's lock ends here, so the edge can simply grow.
            node.tokens += rest
        else:
            child = Node(node.end, rest, node, locks=1)
            node.owner = None
            node.children[rest[0]] = child
            node = child
        node.owner = owner
        self.size += len(rest)
        self._hash_tail(node)
        return node

    def _revive(self, node: Node, tokens: Sequence[int], owner: int) -> Node:
        """Make spilled nodes along ``tokens``, below a locked one, resident; the lock goes down."""
        begin = 0
        while begin < len(tokens) and (child := node.children.get(tokens[begin])) is not None:
            shared = common(child.tokens, tokens, begin, len(tokens))
            if shared < len(child.tokens):
                child = split(child, child.start + shared)
            self._detach(child)
            child.pieces = None
            child.locks = 1
            node.owner, child.owner = None, owner
            self.size += shared
            begin += shared
            node = child
        return node

    def _inherit(self, parent: Node, owner: int) -> Evicted:
        """A tip below ``parent`` is gone: the parent needs its sequence, or it is free."""
        if parent is self.root or not parent.is_tip:
            self._merge(parent)
            return Evicted(owner, 0)
        parent.owner = owner
        self._offer(parent)
        return Evicted(owner, parent.end)

    def _forget(self, node: Node, keep: int) -> None:
        """Forget a spilled node from depth ``keep`` on, and all below it."""
        parent = node.parent
        assert parent is not None
        if keep > node.start:
            parent = split(node, keep)
        self._remove(node)
        self._merge(parent)
        self._offer(parent)

    def _remove(self, node: Node) -> None:
        """Forget a node and all below it."""
        assert node.parent is not None
        del node.parent.children[node.tokens[0]]
        stack = [node]
        while stack:
            lost = stack.pop()
            lost.parent = None
            self._changes.note(lost.hashes, came=False)
            self._detach(lost)
            stack.extend(lost.children.values())

    def _attach(self, node: Node, pieces: Sequence[Piece]) -> None:
        assert node.pieces is not None
        for piece in pieces:
            piece.uses += 1
            node.pieces.append(piece)

    def _detach(self, node: Node) -> None:
        for piece in node.pieces or ():
            piece.uses -= 1
            if not piece.uses:
                self.released.append(piece)

    # --- values -------------------------------------------------------------------------------

    def _use(self, node: Node) -> None:
        node.used = self._clock + worth(node.hits, node.end)

    def _offer(self, node: Node) -> None:
        copy = self._copies.get(node.hashes[-1], 0) if node.hashes else 0
        node.value = node.used + elsewhere(copy, node.end)
        (self._tips if node.resident else self._spilled).offer(node)

    def _may_leave(self, node: Node) -> bool:
        return node.parent is not None and node.locks == 0 and node.is_tip

    def _may_go(self, node: Node) -> bool:
        return node.parent is not None and not node.resident and not node.children

    # --- hashes -------------------------------------------------------------------------------

    def _hash_tail(self, node: Node) -> None:
        """Hash the blocks at the end of the edge that have no hash yet."""
        block = node.start // BLOCK_TOKENS + len(node.hashes)
        last = node.end // BLOCK_TOKENS
        if block >= last:
            return
        tokens = node.path(block * BLOCK_TOKENS)
        parent = self._hash_before(node)
        come = []
        for offset in range(0, (last - block) * BLOCK_TOKENS, BLOCK_TOKENS):
            parent = extend(self._secret, parent, tokens[offset : offset + BLOCK_TOKENS])
            come.append(parent)
        node.hashes += come
        self._changes.note(come, came=True)

    def _hash_before(self, node: Node) -> int:
        step: Node | None = node
        while step is not None:
            if step.hashes:
                return step.hashes[-1]
            step = step.parent
        return root_hash(self._secret, self._model_key)
