"""Where requests go: scenes from a mesh, and what must hold in any."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from overlay.gossip.records import COUNT_MAX, RATE_MAX, RATE_MIN
from overlay.identity.peer_id import PeerId
from overlay.routing.cost import Candidate, Estimate, estimate, typical_rates
from overlay.routing.cost_policy import CostPolicy, cheapest
from overlay.routing.decision import TIE_MS, Decision
from overlay.routing.policy import Question
from tests.overlay.routing.candidates import PROMPT, measured_candidates

SELF, WARM, COLD = (PeerId(bytes([n]) * 32) for n in (1, 2, 3))
replace = Candidate._replace
ANSWER = 128

this_node = Candidate(SELF, is_self=True, prefill_rate=200.0, decode_rate=20.0)
warm = Candidate(WARM, rtt_ms=3.0, match_tokens=608, prefill_rate=200.0, decode_rate=20.0)
cold = Candidate(COLD, rtt_ms=3.0, prefill_rate=200.0, decode_rate=20.0)


def estimates(candidates: Sequence[Candidate], alpha: float) -> list[Estimate]:
    typical = typical_rates(candidates)
    return [estimate(PROMPT, ANSWER, c, typical, own=True, alpha=alpha) for c in candidates]


def choose(*candidates: Candidate, alpha: float = 1.0, seed: int = 0) -> Decision:
    question = Question(PROMPT, (), ANSWER, forwarded=False)
    return cheapest(question, candidates, estimates(candidates, alpha), random.Random(seed))


@pytest.mark.parametrize(
    ("scene", "candidates", "choice"),
    [
        ("a warm peer near by", [this_node, warm, cold], WARM),
        ("a warm peer too far away", [this_node, replace(warm, rtt_ms=4000.0)], SELF),
        (
            "a warm peer at 2 s, computing here takes longer",
            [this_node, replace(warm, rtt_ms=2000.0)],
            WARM,
        ),
        (
            "a warm peer at 2 s, computing here is quicker",
            [replace(this_node, prefill_rate=500.0), replace(warm, rtt_ms=2000.0)],
            SELF,
        ),
        (
            "a warm peer with a long prompt before ours",
            [this_node, replace(warm, pending_prefill_tokens=2000)],
            SELF,
        ),
        ("a warm peer with many answers under way", [this_node, replace(warm, running=12)], SELF),
        ("a warm peer with some answers under way", [this_node, replace(warm, running=4)], WARM),
        ("everybody cold", [this_node, cold], SELF),
        ("both warm", [replace(this_node, match_tokens=608), warm], SELF),
        ("no model here", [cold], COLD),
        ("no model here, one peer warm", [cold, warm], WARM),
        (
            "a cold peer that is much faster",
            [this_node, replace(cold, prefill_rate=4000.0, decode_rate=80.0)],
            COLD,
        ),
        (
            "we are busy, a cold peer idles",
            [replace(this_node, pending_prefill_tokens=4000, running=2), cold],
            COLD,
        ),
        ("a summary from an hour ago", [this_node, replace(warm, summary_age_s=3600.0)], SELF),
        ("a summary from some rounds ago", [this_node, replace(warm, summary_age_s=4.0)], WARM),
        (
            "nobody has measured anything",
            [Candidate(SELF, is_self=True), Candidate(WARM, rtt_ms=3.0, match_tokens=608)],
            WARM,
        ),
    ],
)
def test_scenes(scene: str, candidates: list[Candidate], choice: PeerId) -> None:
    for order in (candidates, candidates[::-1]):
        decision = choose(*order)
        assert decision.choice == choice, f"{scene}: {decision.explain(str)}"
        assert decision.explain(str).endswith(".")
        assert decision.chosen.peer == choice


def test_a_loaded_mesh_prefers_not_to_compute_twice() -> None:
    busy = replace(warm, pending_prefill_tokens=620)
    assert choose(this_node, busy, alpha=1.0).choice == SELF
    assert choose(this_node, busy, alpha=2.0).choice == WARM


def test_what_costs_about_as_little_here_stays_here() -> None:
    for rtt_ms, choice in ((TIE_MS, SELF), (2 * TIE_MS, COLD)):
        nearly = replace(cold, rtt_ms=0.0)
        here = replace(this_node, late_ms=rtt_ms)
        assert choose(nearly, here).choice == choice
    assert choose(replace(cold, rtt_ms=0.0), this_node).estimates[0].is_self


def test_ties_among_peers_are_drawn_by_chance() -> None:
    twins = [replace(cold, peer=PeerId(bytes([n]) * 32)) for n in range(4, 8)]
    assert {choose(*twins, seed=seed).choice for seed in range(60)} == {t.peer for t in twins}


def test_blind_means_that_no_peer_has_a_usable_summary() -> None:
    unheard = replace(cold, summary_age_s=math.inf)
    assert choose(this_node, unheard).blind
    assert not choose(this_node, unheard, warm).blind
    assert not choose(this_node).blind
    assert not choose(this_node, cold).blind


measured = measured_candidates(st.binary(min_size=32, max_size=32).map(PeerId), selves=False)
some = st.lists(measured, min_size=1, max_size=6, unique_by=lambda c: c.peer)
alphas = st.floats(1, 3)


@given(some, alphas, st.integers(0, 9))
def test_the_choice_is_the_cheapest(candidates: list[Candidate], alpha: float, seed: int) -> None:
    decision = choose(*candidates, alpha=alpha, seed=seed)
    costs = [e.cost_ms for e in decision.estimates]
    assert costs == sorted(costs)
    assert all(math.isfinite(cost) for cost in costs)
    assert decision.chosen.cost_ms <= costs[0] + TIE_MS


@settings(max_examples=200)
@given(some, measured, alphas, st.integers(0, 9))
def test_a_worse_candidate_changes_nothing(
    candidates: list[Candidate], other: Candidate, alpha: float, seed: int
) -> None:
    assume(other.peer not in {c.peer for c in candidates})
    before = choose(*candidates, alpha=alpha, seed=seed)
    other = replace(other, rtt_ms=before.estimates[0].cost_ms + 2 * TIE_MS)
    assert choose(*candidates, other, alpha=alpha, seed=seed).choice == before.choice


extreme_rate = st.sampled_from([0.0, RATE_MIN, 1.0, RATE_MAX])
extreme_count = st.sampled_from([0, COUNT_MAX])
extreme = st.builds(
    Candidate,
    peer=st.binary(min_size=32, max_size=32).map(PeerId),
    is_self=st.just(False),
    rtt_ms=st.sampled_from([0.0, 300.0]),
    match_tokens=st.sampled_from([0, PROMPT]),
    summary_age_s=st.sampled_from([0.0, math.inf]),
    prefill_rate=extreme_rate,
    decode_rate=extreme_rate,
    pending_prefill_tokens=extreme_count,
    running=extreme_count,
    queued=extreme_count,
    lost_share=st.sampled_from([0.0, 1.0]),
    pending_guest_tokens=st.just(0),
    late_ms=st.sampled_from([0.0, 1e6]),
)


@settings(max_examples=200)
@given(st.lists(extreme, min_size=1, max_size=4, unique_by=lambda c: c.peer), st.booleans())
def test_whatever_records_may_say_all_costs_can_be_compared(
    candidates: list[Candidate], here: bool
) -> None:
    policy = CostPolicy(random.Random(0))
    for now in (0.0, 1.0, 1000.0):
        question = Question(PROMPT, tuple(range(20)), ANSWER, forwarded=False)
        decision = policy.decide(question, [*[this_node][:here], *candidates], now)
        assert all(math.isfinite(each.cost_ms) for each in decision.estimates)


def test_the_time_of_who_is_seen_to_be_busy_is_dear_and_guests_wait_for_more_to_come() -> None:
    policy = CostPolicy(random.Random(0))
    here = replace(this_node, pending_prefill_tokens=200, pending_guest_tokens=200)
    busy = replace(cold, peer=WARM, pending_prefill_tokens=200)
    for now in range(200):
        question = Question(PROMPT, (), ANSWER, forwarded=now % 2 == 1)
        found = policy.decide(question, [here, busy, cold], float(now)).estimates
        waits_ms = {each.peer: each.wait_ms for each in found}
        alphas = {each.peer: each.alpha for each in found}
        assert question.forwarded == (waits_ms[SELF] > 0), "the owner's prompts come before guests"
    assert waits_ms[WARM] > 2 * 1000.0
    assert alphas[WARM] > 2 * alphas[COLD]
