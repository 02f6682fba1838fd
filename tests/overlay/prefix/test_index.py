"""`PeerIndex` against a model that walks every peer."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.limits import KNOWN_BLOCKS_PER_PEER_MAX
from overlay.prefix.index import PeerIndex

#: So few that peers' blocks overflow, and that lists of what came are tidied.
BLOCKS_MAX = 6
TIDY_MIN = 4

peers = st.sampled_from("ABCDE")
# Some of these have their low bits in common, by which blocks are spread.
blocks = st.lists(st.sampled_from([*range(6), *(n << 60 for n in range(1, 6))]), max_size=8)


class PeerIndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bounds = patch.multiple(
            "overlay.prefix.index",
            KNOWN_BLOCKS_PER_PEER_MAX=BLOCKS_MAX,
            SUMMARY_BLOCKS_MAX=TIDY_MIN,
        )
        self.bounds.start()
        self.index: PeerIndex[str] = PeerIndex()
        self.model: dict[str, set[int]] = {}

    def teardown(self) -> None:
        self.bounds.stop()

    @rule(peer=peers, hashes=blocks)
    def add(self, peer: str, hashes: list[int]) -> None:
        self.index.add(peer, hashes)
        held = self.model.setdefault(peer, set())
        for block in hashes:
            if len(held) < BLOCKS_MAX:
                held.add(block)

    @precondition(lambda self: self.model)
    @rule(peer=peers, hashes=blocks)
    def remove(self, peer: str, hashes: list[int]) -> None:
        self.index.remove(peer, hashes)
        self.model.get(peer, set()).difference_update(hashes)

    @precondition(lambda self: self.model)
    @rule(peer=peers)
    def drop(self, peer: str) -> None:
        self.index.drop(peer)
        self.model.pop(peer, None)

    @precondition(lambda self: self.model)
    @rule(hashes=blocks)
    def match(self, hashes: list[int]) -> None:
        expected = {}
        for peer, held in self.model.items():
            depth = max((i + 1 for i, h in enumerate(hashes) if h in held), default=0)
            if depth:
                expected[peer] = depth
        assert self.index.match(hashes) == expected

    @precondition(lambda self: self.model)
    @rule(block=st.sampled_from(range(6)))
    def holders(self, block: int) -> None:
        expected = [peer for peer, held in self.model.items() if block in held]
        assert sorted(self.index.holders(block)) == sorted(expected)
        assert (block in self.index) == bool(expected)

    @invariant()
    def counts_agree(self) -> None:
        for peer in "ABCDE":
            assert self.index.blocks(peer) == len(self.model.get(peer, ()))


TestPeerIndex = PeerIndexMachine.TestCase
TestPeerIndex.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def test_a_peer_cannot_fill_the_index() -> None:
    index: PeerIndex[str] = PeerIndex()
    index.add("A", range(2 * KNOWN_BLOCKS_PER_PEER_MAX))
    assert index.blocks("A") == KNOWN_BLOCKS_PER_PEER_MAX
    assert index.match([KNOWN_BLOCKS_PER_PEER_MAX - 1]) == {"A": 1}
    assert index.match([KNOWN_BLOCKS_PER_PEER_MAX]) == {}
    index.drop("A")
    assert index.match([0]) == {}


def test_slots_of_dropped_peers_do_not_leak_blocks() -> None:
    index: PeerIndex[str] = PeerIndex()
    index.add("A", [1])
    index.add("B", [2])
    index.drop("A")
    index.add("C", [3])
    assert index.match([1, 2, 3]) == {"B": 2, "C": 3}


def test_the_deepest_block_counts_whatever_was_told_of_those_before_it() -> None:
    index: PeerIndex[str] = PeerIndex()
    index.add("A", [1, 4])
    index.add("B", [1, 2])
    assert index.match([1, 2, 3, 4, 5]) == {"A": 4, "B": 2}
    index.remove("A", [4])
    assert index.match([1, 2, 3, 4, 5]) == {"A": 1, "B": 2}
