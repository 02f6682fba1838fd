"""Whole runs: the same every time, and what anybody would expect of them."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import pytest

from overlay.sim.baselines import REGISTRY
from overlay.sim.churn import Churn
from overlay.sim.machine import Machine
from overlay.sim.run import Scenario, _slowly_first, run, session_rate
from overlay.sim.workloads.chat import Chat
from overlay.sim.workloads.parameters import Span
from overlay.sim.workloads.zipf import Zipf

FEW = Scenario(Zipf(groups=8), nodes=3, requests=90, warm_up=10, load=0.5)


def test_the_same_seed_gives_the_same_report() -> None:
    told: list[int] = []
    first, second = run(FEW, "hearth", 1), run(FEW, "hearth", 1, told.append)
    assert first.as_json() == second.as_json()
    assert list(first.ttfts_ms) == list(second.ttfts_ms)
    assert first.as_json() != run(FEW, "hearth", 2).as_json()
    assert told[-1] == FEW.requests + FEW.warm_up
    assert not first.failed


def test_a_prefix_is_computed_once_where_that_is_cheap() -> None:
    near = run(replace(FEW, rtt_ms=0.2), "hearth", 1)
    far = run(replace(FEW, rtt_ms=60_000.0), "hearth", 1)
    assert near.forwards > 0
    assert far.forwards == 0
    assert near.hit_rate > far.hit_rate


def test_more_load_takes_longer() -> None:
    means = [run(replace(FEW, load=load), "hearth", 1).ttft_ms.mean for load in (0.1, 0.9)]
    assert means[0] < means[1]


def test_so_many_clients_ask_at_a_time() -> None:
    one, many = (run(replace(FEW, clients=clients), "local-only", 1) for clients in (1, 30))
    assert one.requests == many.requests
    assert one.imbalance < 1.5, "one client at a time, but not always the same node's"
    assert many.ttft_ms.mean > 3 * one.ttft_ms.mean, "one never waits for another"


def test_who_knows_how_long_answers_get_decides_otherwise() -> None:
    # Machines that answer more slowly than people read.
    slow = replace(FEW, machine=Machine().scaled(0.3))
    known, unknown = (run(replace(slow, limited=limited), "hearth", 1) for limited in (True, False))
    assert known.as_json() != unknown.as_json()


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_load_is_the_share_of_time_that_machines_compute_alone(load: float) -> None:
    """Nodes that cannot reach each other are as busy as the scenario says."""
    alone = replace(FEW, rtt_ms=600_000.0, load=load, requests=300)
    assert session_rate(replace(alone, nodes=6)) == pytest.approx(2 * session_rate(alone))
    report = run(alone, "hearth", 1)
    assert report.forwards == 0


def test_so_many_turns_come_slowly_first() -> None:
    chat = Chat(turns=Span(10, 10))
    asked = [*islice(chat.sessions(random.Random(1), nodes=1, rate_per_s=1.0), 5)]
    times = [session.at_s for session in _slowly_first(iter(asked), 20)]
    fast = [session.at_s for session in asked]
    assert times == [2 * fast[0], 2 * fast[1], *(at_s + fast[1] for at_s in fast[2:])]


@pytest.mark.parametrize("policy", REGISTRY)
def test_every_rival_answers_everything(policy: str) -> None:
    report = run(FEW, policy, 1)
    assert report.policy == policy
    assert (report.requests, report.failed) == (90, 0)
    assert (report.forwards == 0) == (policy == "local-only")


def test_churn_costs_warmth_but_a_mesh_goes_on() -> None:
    churn = Churn(up_s=60.0, away_s=10.0, whole_s=60.0, split_s=10.0)
    calm, stormy = run(FEW, "hearth", 1), run(replace(FEW, churn=churn), "hearth", 1)
    assert stormy.as_json() == run(replace(FEW, churn=churn), "hearth", 1).as_json()
    assert stormy.hit_rate < calm.hit_rate
    assert stormy.failed < stormy.requests / 3
