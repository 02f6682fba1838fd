"""SGLang's cache-aware router."""

from __future__ import annotations

import pytest

from overlay.identity.peer_id import PeerId
from overlay.routing.policy import Question
from overlay.sim.baselines.sglang import EVICTION_INTERVAL_S, ApproximateTree, Sglang
from tests.overlay.sim.baselines.scene import FakeFleet, idle, peer, peers, prompt


class Scene:
    def __init__(self, count: int = 3, max_tree_blocks: int = 1000) -> None:
        self.fleet = FakeFleet(peers(count))
        self.router = Sglang(self.fleet, max_tree_blocks)
        self.candidates = idle(count)

    def loads(self, *requests: int) -> None:
        self.fleet.requests = dict(zip(self.fleet.peers, requests, strict=True))

    def place(self, question: Question, now: float = 0.0) -> PeerId:
        return self.router.place(peer(0), question, self.candidates, now).peer


def test_what_was_sent_somewhere_goes_there_again_though_others_are_idle() -> None:
    scene = Scene()
    scene.loads(1, 1, 0)
    assert scene.place(prompt(1, 2, 3)) == peer(2)
    scene.loads(0, 0, 60)
    assert scene.place(prompt(1, 2, 3)) == peer(2)
    assert scene.place(prompt(1, 2, 9)) == peer(2)  # two thirds of it


def test_a_match_of_less_than_the_threshold_goes_to_the_idlest() -> None:
    scene = Scene()
    scene.loads(1, 1, 0)
    scene.place(prompt(*range(10)))
    scene.loads(1, 0, 2)
    # Three of ten blocks are not more than 0.3 of the prompt; four are.
    assert scene.place(prompt(0, 1, 2, *[90] * 7)) == peer(1)
    assert scene.place(prompt(0, 1, 2, 3, *[80] * 6)) == peer(2)


@pytest.mark.parametrize(
    ("loads", "imbalanced"),
    [
        ((0, 0, 64), False),  # 64 more is not over 64
        ((0, 0, 65), True),
        ((130, 130, 195), False),  # 65 more, but 1.5 times is not over 1.5
        ((129, 130, 194), True),
    ],
)
def test_it_turns_to_the_shortest_queue_exactly_when_imbalanced(
    loads: tuple[int, int, int], imbalanced: bool
) -> None:
    scene = Scene()
    scene.loads(1, 1, 0)
    scene.place(prompt(1, 2))  # node 2 has it
    scene.loads(*loads)
    chosen = scene.place(prompt(1, 2))
    assert (chosen != peer(2)) == imbalanced
    if imbalanced:
        assert scene.fleet.present(chosen) == min(loads)


def test_the_first_to_have_a_prefix_keeps_it() -> None:
    scene = Scene()
    scene.loads(1, 1, 0)
    scene.place(prompt(1, 2))
    scene.loads(0, 9, 99)
    assert scene.place(prompt(1, 2)) == peer(0)  # imbalanced: sent to node 0 as well
    scene.loads(0, 9, 9)
    assert scene.place(prompt(1, 2)) == peer(2)


def test_of_equally_idle_ones_it_is_the_first_whoever_asks() -> None:
    scene = Scene()
    first, second = sorted(peers(3)[1:])
    scene.candidates = [c for c in idle(3) if c.peer != peer(0)][::-1]
    scene.loads(9, 1, 1)
    assert scene.place(prompt(1)) == scene.place(prompt(2)) == first
    scene.fleet.requests[first] = 2
    assert scene.place(prompt(3)) == second


def test_a_worker_that_is_gone_is_not_chosen() -> None:
    scene = Scene()
    scene.loads(1, 1, 0)
    scene.place(prompt(1, 2))
    scene.candidates = idle(2)
    assert scene.place(prompt(1, 2)) in peers(2)


def test_the_tree_is_cut_to_its_size_at_intervals() -> None:
    scene = Scene(max_tree_blocks=4)
    scene.loads(0, 1, 1)
    for word in range(3):
        scene.place(prompt(word, word))
    scene.loads(1, 0, 0)
    # Just before: all three are known. Then: the one longest unused is not.
    assert scene.place(prompt(0, 0), EVICTION_INTERVAL_S - 0.1) == peer(0)
    assert scene.place(prompt(1, 1), EVICTION_INTERVAL_S) != peer(0)
    assert scene.place(prompt(2, 2), EVICTION_INTERVAL_S + 0.1) == peer(0)


def test_eviction_takes_the_longest_unused_and_leaves_before_their_ancestors() -> None:
    tree = ApproximateTree()
    tree.insert(peer(0), prompt(1, 2, 3).hashes)
    tree.insert(peer(0), prompt(1, 4).hashes)
    tree.insert(peer(1), prompt(1, 2, 3).hashes)
    tree.evict(3)
    assert (tree.size(peer(0)), tree.size(peer(1))) == (3, 3)
    assert tree.match(prompt(1, 2).hashes) == (2, peer(0))
    # The third block is no longer node 0's, but still node 1's.
    assert tree.match(prompt(1, 2, 3).hashes) == (3, peer(1))
    tree.evict(2)
    assert tree.match(prompt(1, 4).hashes) == (2, peer(0))
    assert tree.match(prompt(1, 2, 3).hashes) == (2, peer(1))
