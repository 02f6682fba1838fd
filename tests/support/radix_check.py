"""What must be true of a radix tree at any time."""

from __future__ import annotations

from collections import Counter

from overlay.prefix.chain import BLOCK_TOKENS
from overlay.prefix.eviction import EvictionQueue, V
from overlay.prefix.node import Node, is_one
from overlay.prefix.radix import RadixTree


def check_integrity(tree: RadixTree) -> None:
    """Assert every invariant that `overlay.prefix.radix` names."""
    nodes = list(tree.nodes())
    resident = [node for node in nodes if node.resident]
    owners = [node.owner for node in resident if node.owner is not None]
    assert len(owners) == len(set(owners)), "a sequence owns two tips"
    assert tree.size == sum(len(node.tokens) for node in resident)
    assert tree.evictable == sum(len(node.tokens) for node in resident if not node.locks)
    for node in nodes:
        _check_children(tree, node)
        assert node.holders >= 0, "children have more locks than their parent"
        assert node.resident or not node.locks, "a lock on a spilled node"
        if node is not tree.root:
            _check_edge(tree, node)
    uses = Counter(id(piece) for node in nodes for piece in node.pieces or ())
    for node in nodes:
        assert all(piece.uses == uses[id(piece)] for piece in node.pieces or ())


def knows(queue: EvictionQueue[V], thing: V) -> bool:
    """Whether the queue would come to it, at the value that it has."""
    return any(other is thing and value == thing.value for value, _, other in queue._heap)


def _check_children(tree: RadixTree, node: Node) -> None:
    for first, child in node.children.items():
        assert child.parent is node
        assert child.tokens, "an empty edge"
        assert child.tokens[0] == first
        assert child.start == node.end
        assert node.resident or not child.resident, "resident below a spilled node"
        assert node is tree.root or child.hits <= node.hits, "hits pass through parents"


def _check_edge(tree: RadixTree, node: Node) -> None:
    assert (node.owner is not None) == node.is_tip, "tips own, other nodes do not"
    assert not is_one(node), "a node that should have been merged"
    count = node.end // BLOCK_TOKENS - node.start // BLOCK_TOKENS
    assert len(node.hashes) == count, "hashes do not fit the edge"
    at = node.start
    for piece in node.pieces or ():
        assert piece.start <= at < piece.end, "pieces do not follow each other"
        at = piece.end
    assert node.resident or at >= node.end, "pieces do not cover the edge"
    if node.is_tip and not node.locks:
        assert knows(tree._tips, node), "lost to eviction"
    if not node.resident and not node.children:
        assert knows(tree._spilled, node), "lost to eviction"
