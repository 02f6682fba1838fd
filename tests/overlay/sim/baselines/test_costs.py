"""Central routers that compare costs: Dynamo, GORGO and the oracles."""

from __future__ import annotations

import random

import pytest

from overlay.routing.policy import Question
from overlay.sim.baselines.dynamo import Dynamo
from overlay.sim.baselines.gorgo import QUEUE_WEIGHT, Gorgo
from overlay.sim.baselines.oracle import PRICE, Oracle
from tests.overlay.sim.baselines.scene import FakeFleet, idle, peer, peers, prompt

TEN = prompt(*range(10))  # 320 tokens


def fleet_with(cached: Question, at: int, count: int = 3) -> FakeFleet:
    """Node ``at`` has the prompt cached; all nodes compute 1,000 tokens per second."""
    return FakeFleet(peers(count), blocks={peer(at): set(cached.hashes)})


def test_dynamo_counts_blocks_to_compute_and_blocks_to_hold() -> None:
    fleet = fleet_with(prompt(*range(6)), at=1)
    fleet.pending = {peer(1): 64}
    fleet.requests = {peer(0): 1, peer(1): 1}
    router = Dynamo(fleet, random.Random(1))
    router.underway.begin(peer(0), TEN.hashes)
    router.underway.begin(peer(1), prompt(0, 1, 50, 51).hashes)
    # Node 0 would compute all ten, and holds them already.
    assert router.cost(peer(0), TEN, peer(0)) == 10 + 10
    # Node 1: two pending and four not cached; four held and eight that are not shared with them.
    assert router.cost(peer(0), TEN, peer(1)) == (2 + 4) + (4 + 8)
    assert router.cost(peer(0), TEN, peer(2)) == 10 + 10


def test_dynamo_prefers_the_cache_until_its_backlog_is_longer() -> None:
    fleet = fleet_with(TEN, at=1)
    router = Dynamo(fleet, random.Random(1))
    fleet.pending = {peer(1): 319}
    assert router.place(peer(0), TEN, idle(3), 0.0).peer == peer(1)
    fleet.pending = {peer(1): 321}
    assert router.place(peer(0), TEN, idle(3), 0.0).peer != peer(1)


def test_gorgo_adds_network_prefill_and_queue_in_milliseconds() -> None:
    fleet = fleet_with(prompt(*range(6)), at=1)
    fleet.rtt = {(peer(0), peer(1)): 40.0}
    fleet.rates = {peer(1): 500.0}
    fleet.requests = {peer(1): 2}
    router = Gorgo(fleet, random.Random(1))
    for _ in range(2):  # cached or not, each counts in full
        router.underway.begin(peer(1), prompt(*range(5)).hashes)
    # 40 ms away; 4 blocks at 2 ms per token; 10 blocks underway.
    expected = 40 + 4 * 32 * 2 + QUEUE_WEIGHT * 10 * 32 * 2
    assert router.cost(peer(0), TEN, peer(1)) == pytest.approx(expected)


def test_gorgo_goes_to_a_cache_only_as_far_as_it_is_worth() -> None:
    fleet = fleet_with(TEN, at=1)
    router = Gorgo(fleet, random.Random(1))
    fleet.rtt = {(peer(0), peer(1)): 319.0}
    assert router.place(peer(0), TEN, idle(2), 0.0).peer == peer(1)
    fleet.rtt = {(peer(0), peer(1)): 321.0}
    assert router.place(peer(0), TEN, idle(2), 0.0).peer == peer(0)


def test_the_oracle_knows_distance_queue_cache_and_speed() -> None:
    fleet = fleet_with(prompt(*range(6)), at=1)
    fleet.rtt, fleet.pending, fleet.rates = (
        {(peer(0), peer(1)): 40.0},
        {peer(1): 72},
        {peer(1): 500.0},
    )
    oracle = Oracle(fleet, random.Random(1))
    assert oracle.cost(peer(0), TEN, peer(1)) == pytest.approx(40 + 2 * (72 + 128))
    assert oracle.cost(peer(0), TEN, peer(0)) == pytest.approx(320)
    assert oracle.place(peer(0), TEN, idle(2), 0.0).peer == peer(0)


def test_the_oracle_counts_what_prompts_underway_will_leave_in_the_cache() -> None:
    fleet = FakeFleet(peers(2), requests={peer(1): 1}, pending={peer(1): 100})
    fleet.rtt = {(peer(0), peer(1)): 0.0}
    oracle = Oracle(fleet, random.Random(1))
    oracle.underway.begin(peer(1), TEN.hashes)
    assert oracle.place(peer(0), TEN, idle(2), 0.0).peer == peer(1)


def test_the_last_token_is_computed_even_if_all_is_cached() -> None:
    oracle = Oracle(fleet_with(TEN, at=0), random.Random(1))
    assert oracle.cost(peer(0), TEN, peer(0)) == pytest.approx(1.0)


def test_the_priced_oracle_pays_for_machine_time_on_machines_that_are_shared() -> None:
    fleet = fleet_with(prompt(*range(6)), at=1)
    fleet.requests = {peer(1): 4}
    fleet.rtt = {(peer(0), peer(1)): 40.0}
    greedy, priced = Oracle(fleet, random.Random(1)), Oracle(fleet, random.Random(1), PRICE)
    assert greedy.cost(peer(0), TEN, peer(1)) == pytest.approx(40 + 128)
    # 128 tokens to compute, and 64 of an answer that take 2 ms each, among four.
    expected = 40 + 128 + 4 * PRICE * (128 + 64 * 2)
    assert priced.cost(peer(0), TEN, peer(1)) == pytest.approx(expected)
    assert priced.cost(peer(0), TEN, peer(2)) == greedy.cost(peer(0), TEN, peer(2))
