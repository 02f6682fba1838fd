"""What all rivals promise."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from overlay.identity.peer_id import PeerId
from overlay.routing.policy import Policy
from overlay.sim.baselines import REGISTRY, Rival
from tests.overlay.sim.baselines.scene import FakeFleet, candidate, peer, peers, prompt

RIVALS = pytest.mark.parametrize("rival", REGISTRY.values(), ids=REGISTRY.keys())


def begin(rival: Rival, seed: int, count: int = 6) -> list[Policy]:
    """A run's policies, one per node."""
    policies = rival.policies(FakeFleet(peers(count)), random.Random(seed))
    return [policies(p) for p in peers(count)]


def play(rival: Rival, seed: int) -> list[PeerId]:
    """200 requests with repeating beginnings, from all nodes in turn."""
    dice, nodes, chosen = random.Random(7), begin(rival, seed), []
    for turn in range(200):
        origin = turn % len(nodes)
        known = [
            candidate(n, own=n == origin, match=32 * dice.randrange(3), running=dice.randrange(4))
            for n in range(len(nodes))
        ]
        question = prompt(dice.randrange(5), turn)
        chosen.append(nodes[origin].decide(question, known, float(turn)).choice)
    return chosen


def test_the_page_of_rivals_describes_them_all() -> None:
    page = (Path(__file__).parents[4] / "docs/reference/rivals.md").read_text()
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE) == list(REGISTRY)


def test_names_are_keys() -> None:
    assert all(name == rival.name for name, rival in REGISTRY.items())


@RIVALS
def test_a_seed_repeats_a_run(rival: Rival) -> None:
    assert play(rival, 3) == play(rival, 3)


@RIVALS
def test_a_forwarded_request_stays_where_it_was_sent(rival: Rival) -> None:
    nodes = [candidate(0, match=64), candidate(1, own=True, queued=9), candidate(2)]
    for policy in begin(rival, 1, 3):
        question = prompt(1, 2, forwarded=True)
        assert policy.decide(question, nodes, 0.0).choice == peer(1)


@RIVALS
def test_the_choice_is_a_candidate_and_has_an_estimate(rival: Rival) -> None:
    # Node 5 is not reachable from here, whatever the fleet's truth.
    nodes = [candidate(n, own=n == 0, match=32) for n in range(5)]
    for policy in begin(rival, 1)[:5]:
        decision = policy.decide(prompt(1, 2), nodes, 0.0)
        assert decision.choice in peers(5)
        assert decision.chosen.match_tokens == 32
