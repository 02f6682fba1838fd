"""Rivals that look at load or at nothing."""

from __future__ import annotations

import random
from collections import Counter

from overlay.sim.baselines.balancing import LeastLoaded, LocalOnly, PowerOfTwo, Random, RoundRobin
from tests.overlay.sim.baselines.scene import (
    FakeFleet,
    candidate,
    choices,
    idle,
    peer,
    peers,
    prompt,
)


def test_local_only_stays_at_home_even_if_others_are_idle() -> None:
    policy = LocalOnly(random.Random(1))
    busy = [candidate(0, own=True, queued=9), candidate(1)]
    assert choices(policy, [prompt(1)] * 5, busy) == [peer(0)] * 5


def test_local_only_goes_elsewhere_where_the_model_is_not_served_here() -> None:
    policy = LocalOnly(random.Random(1))
    assert set(choices(policy, [prompt(1)] * 50, [candidate(1), candidate(2)])) == {
        peer(1),
        peer(2),
    }


def test_random_gives_every_node_its_share() -> None:
    counts = Counter(choices(Random(random.Random(1)), [prompt(1)] * 4000, idle(4)))
    assert all(850 < counts[p] < 1150 for p in peers(4))


def test_round_robin_visits_every_node_before_any_again() -> None:
    policy = RoundRobin(random.Random(1))
    first, second = (choices(policy, [prompt(1)] * 5, idle(5)) for _ in range(2))
    assert sorted(first) == peers(5)
    assert second == first


def test_round_robin_goes_on_behind_a_node_that_left() -> None:
    policy = RoundRobin(random.Random(1))
    nodes = idle(4)
    last = choices(policy, [prompt(1)], nodes)[0]
    left = [c for c in nodes if c.peer != last]
    assert sorted(choices(policy, [prompt(1)] * 3, left)) == sorted(c.peer for c in left)


def test_origins_do_not_go_round_in_step() -> None:
    rng = random.Random(1)
    starts = {choices(RoundRobin(rng), [prompt(1)], idle(10))[0] for _ in range(40)}
    assert len(starts) > 5


def test_least_loaded_counts_running_and_queued_requests() -> None:
    policy = LeastLoaded(random.Random(1))
    nodes = [candidate(0, own=True, running=3), candidate(1, queued=3), candidate(2, running=1)]
    assert choices(policy, [prompt(1)], nodes) == [peer(2)]


def test_least_loaded_breaks_ties_by_chance() -> None:
    policy = LeastLoaded(random.Random(1))
    nodes = [candidate(0, own=True), candidate(1), candidate(2, running=1)]
    assert set(choices(policy, [prompt(1)] * 50, nodes)) == {peer(0), peer(1)}


def test_power_of_two_asks_for_the_truth_and_avoids_only_the_worst() -> None:
    # Gossip believes that all are idle; the truth is another.
    fleet = FakeFleet(peers(3), requests={peer(0): 9, peer(1): 5, peer(2): 1})
    counts = Counter(choices(PowerOfTwo(fleet, random.Random(1)), [prompt(1)] * 3000, idle(3)))
    # Of the three pairs, node 2 wins two, node 1 one, and node 0, the worst, none.
    assert counts[peer(0)] == 0
    assert 1850 < counts[peer(2)] < 2150


def test_power_of_two_takes_the_only_node_there_is() -> None:
    fleet = FakeFleet(peers(1))
    assert choices(PowerOfTwo(fleet, random.Random(1)), [prompt(1)], idle(1)) == [peer(0)]
