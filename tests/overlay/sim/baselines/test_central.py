"""What a central router remembers of the requests that it placed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.peer_id import PeerId
from overlay.routing.cost import Candidate
from overlay.routing.policy import Question
from overlay.sim.baselines.central import Central, Router, Underway, through
from tests.overlay.sim.baselines.scene import FakeFleet, idle, peer, peers, prompt


class Last(Router):
    """Always the last candidate; keeps the origins that asked."""

    def __init__(self, fleet: FakeFleet) -> None:
        super().__init__(fleet)
        self.origins: list[PeerId] = []

    def best(
        self, origin: PeerId, question: Question, candidates: Sequence[Candidate], now: float
    ) -> Candidate:
        self.origins.append(origin)
        return candidates[-1]


def test_all_nodes_share_one_router() -> None:
    router = Last(FakeFleet(peers(3), requests={peer(2): 1}))
    policies = through(router)
    for node in peers(2):
        policies(node).decide(prompt(1, 2), idle(3), 0.0)
    assert router.origins == peers(2)
    assert router.underway.total_blocks(peer(2)) == 4
    assert router.underway.distinct_blocks(peer(2)) == 2


def test_a_request_that_ended_is_no_longer_underway() -> None:
    router = Last(FakeFleet(peers(3), requests={peer(2): 1}))
    policy = through(router)(peer(0))
    assert isinstance(policy, Central)
    policy.decide(prompt(1, 2), idle(3), 0.0)
    policy.ended(peer(2), prompt(1, 2).hashes)
    assert router.underway.total_blocks(peer(2)) == 0


def test_a_forwarded_request_is_not_counted_twice() -> None:
    router = Last(FakeFleet(peers(3)))
    through(router)(peer(0)).decide(prompt(1, forwarded=True), idle(3), 0.0)
    assert router.origins == []


def test_what_a_node_lost_when_it_failed_is_forgotten() -> None:
    fleet = FakeFleet(peers(3), requests={peer(2): 1})
    router = Last(fleet)
    policy = through(router)(peer(0))
    policy.decide(prompt(1, 2, 3), idle(3), 0.0)
    fleet.requests.clear()
    policy.decide(prompt(4), idle(3), 0.0)
    assert router.underway.total_blocks(peer(2)) == 1


WORDS = st.lists(st.integers(0, 2), min_size=0, max_size=4)


@given(st.lists(WORDS, max_size=12), st.randoms(use_true_random=False), WORDS)
def test_underway_is_what_began_and_has_not_ended(
    began: list[list[int]], dice: random.Random, asked: list[int]
) -> None:
    underway, left = Underway(), list(began)
    for words in began:
        underway.begin(peer(0), prompt(*words).hashes)
    for words in dice.sample(began, dice.randint(0, len(began))):
        underway.end(peer(0), prompt(*words).hashes)
        left.remove(words)
    prompts = [prompt(*words).hashes for words in left]
    blocks = Counter(block for hashes in prompts for block in hashes)
    assert underway.total_blocks(peer(0)) == blocks.total()
    assert underway.distinct_blocks(peer(0)) == len(blocks)
    wanted = prompt(*asked).hashes
    assert underway.match_blocks(peer(0), wanted) == sum(h in blocks for h in wanted)
    assert underway.match_blocks(peer(1), wanted) == 0


def test_an_end_of_what_is_not_underway_changes_nothing() -> None:
    underway = Underway()
    underway.begin(peer(0), prompt(1, 2, 3).hashes)
    underway.end(peer(0), prompt(1, 2).hashes)
    underway.end(peer(1), prompt(1, 2, 3).hashes)
    assert underway.total_blocks(peer(0)) == 3
