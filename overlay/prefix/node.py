"""Edges of a radix tree: what a node is, and how edges are followed, cut and joined.

Token ranges are half open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from overlay.prefix.chain import BLOCK_TOKENS


@dataclass(slots=True, eq=False)
class Piece:
    """The KV state of the tokens ``[start, end)`` of a path, outside of the KV cache.

    It belongs to whoever keeps such state; the tree only says when no node needs it any longer.
    """

    start: int
    end: int
    #: Nodes that need it: two or more if an edge was split within its range.
    uses: int = field(default=0, init=False)


@dataclass(slots=True, eq=False)
class Node:
    """An edge and what hangs below it."""

    start: int
    tokens: list[int]
    parent: Node | None
    owner: int | None = None
    locks: int = 0
    #: How many requests reused it; never less than those that reused what is below.
    hits: int = 0
    #: Its worth at its last use; and less what others spare of it, as far as is known.
    used: float = 0.0
    value: float = 0.0
    #: The state of a spilled node's edge, in order; None: the node is resident.
    pieces: list[Piece] | None = None
    children: dict[int, Node] = field(default_factory=dict)
    #: Chained hashes of the blocks whose last token is in this edge, in order.
    hashes: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def resident(self) -> bool:
        return self.pieces is None

    @property
    def holders(self) -> int:
        """Locks that end exactly here."""
        return self.locks - sum(child.locks for child in self.children.values())

    @property
    def is_tip(self) -> bool:
        return self.resident and not any(child.resident for child in self.children.values())

    def path(self, begin: int = 0) -> list[int]:
        """The tokens of the path from depth ``begin`` to the end of this node."""
        parts = []
        step: Node | None = self
        while step is not None and step.end > begin:
            parts.append(step.tokens[max(0, begin - step.start) :])
            step = step.parent
        return [token for part in reversed(parts) for token in part]


class Match(NamedTuple):
    """The longest known prefix: it ends within ``node``, after ``length`` tokens of the prompt."""

    node: Node
    length: int


def split(node: Node, depth: int) -> Node:
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
        hits=node.hits,
        used=node.used,
        value=node.value,
        children={node.tokens[at]: node},
        hashes=node.hashes[:blocks],
    )
    parent.children[upper.tokens[0]] = upper
    node.start, node.tokens, node.parent = depth, node.tokens[at:], upper
    node.hashes = node.hashes[blocks:]
    if node.pieces is not None:
        upper.pieces = [piece for piece in node.pieces if piece.start < depth]
        node.pieces = [piece for piece in node.pieces if piece.end > depth]
        for piece in upper.pieces:
            piece.uses += piece.end > depth
    return upper


def is_one(upper: Node) -> bool:
    """Whether nothing sets a node apart from its only child."""
    if len(upper.children) != 1 or upper.holders:
        return False
    (child,) = upper.children.values()
    return upper.resident == child.resident and upper.hits == child.hits


def join(upper: Node) -> Node:
    """Make a node and its only child one; the child is what remains."""
    (child,) = upper.children.values()
    parent = upper.parent
    assert parent is not None
    child.start, child.parent = upper.start, parent
    child.tokens = upper.tokens + child.tokens
    child.hashes = upper.hashes + child.hashes
    child.used = max(upper.used, child.used)
    if upper.pieces is not None and child.pieces is not None:
        for piece in child.pieces:
            if piece in upper.pieces:
                piece.uses -= 1
            else:
                upper.pieces.append(piece)
        child.pieces = upper.pieces
    parent.children[child.tokens[0]] = child
    upper.parent = None
    return child


def walk(
    node: Node, tokens: Sequence[int], begin: int, end: int, *, resident: bool = False
) -> Match:
    """Follow ``tokens[begin:end]`` down from the end of ``node``; the length is an index.

    ``resident``: only as far as they are in the KV cache.
    """
    while begin < end and (child := node.children.get(tokens[begin])) is not None:
        if resident and not child.resident:
            break
        node = child
        shared = common(node.tokens, tokens, begin, end)
        begin += shared
        if shared < len(node.tokens):
            break
    return Match(node, begin)


def common(edge: list[int], tokens: Sequence[int], begin: int, end: int) -> int:
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
