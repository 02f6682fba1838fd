"""The parts of a cost, and what must hold of any."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.peer_id import PeerId
from overlay.routing.cost import (
    DECODE_RATE_PRIOR,
    PREFILL_RATE_PRIOR,
    PROMPT_STEP_MS,
    READING_MS,
    Candidate,
    Estimate,
    estimate,
    typical_rates,
)
from tests.overlay.routing.candidates import PROMPT, measured_candidates

SELF, PEER = (PeerId(bytes([n]) * 32) for n in (1, 2))
replace = Candidate._replace
ANSWER = 128

#: 5 ms for a token of a prompt, 50 ms for one of an answer.
this_node = Candidate(SELF, is_self=True, prefill_rate=200.0, decode_rate=20.0)
peer = Candidate(PEER, rtt_ms=3.0, prefill_rate=200.0, decode_rate=20.0)


def cost(
    candidate: Candidate, *, own: bool = True, alpha: float = 1.0, busy: float = 0.0
) -> Estimate:
    typical = typical_rates([candidate])
    return estimate(PROMPT, ANSWER, candidate, typical, own=own, alpha=alpha, busy=busy)


def test_an_idle_node_takes_its_distance_and_the_prompt() -> None:
    found = cost(replace(peer, match_tokens=440), alpha=2.0)
    assert (found.rtt_ms, found.wait_ms, found.prefill_ms, found.decode_ms) == (3.0, 0, 1000.0, 0)
    assert (found.cost_ms, found.ttft_ms) == (2003.0, 1003.0)


@pytest.mark.parametrize(("running", "queued"), [(4, 0), (1, 3)])
def test_answers_under_way_slow_prompts_down(running: int, queued: int) -> None:
    found = cost(replace(peer, running=running, queued=queued, match_tokens=440))
    step_ms = 2 * 50.0
    assert found.wait_ms == step_ms
    assert found.prefill_ms == pytest.approx(1000.0 * (1 + step_ms / PROMPT_STEP_MS))


def test_an_answer_costs_what_it_is_slower_than_people_read() -> None:
    assert cost(replace(peer, running=4)).decode_ms == 0
    assert cost(replace(peer, running=12)).decode_ms == ANSWER * (4 * 50.0 - READING_MS)


def test_the_owner_goes_before_guests_at_home_only() -> None:
    busy = replace(this_node, pending_prefill_tokens=300, pending_guest_tokens=200)
    assert cost(busy).wait_ms == 500.0
    assert cost(busy, own=False).wait_ms == 1500.0
    assert cost(replace(peer, pending_prefill_tokens=300)).wait_ms == 1500.0


def test_a_short_rest_of_the_owners_goes_before_long_prompts() -> None:
    warm = replace(this_node, pending_prefill_tokens=3000, match_tokens=600)
    assert cost(warm).wait_ms == PROMPT_STEP_MS
    assert cost(warm, own=False).wait_ms == 15_000.0


def test_a_guest_stands_back_where_the_owner_is_busy() -> None:
    warm = replace(peer, match_tokens=440, pending_prefill_tokens=100)
    # While 300 tokens are computed, half of the time somebody else's are.
    assert cost(warm, busy=0.5).wait_ms == 500.0 + 1500.0
    assert math.isfinite(cost(warm, busy=1.0).wait_ms)


def test_a_prompt_that_is_cached_to_the_end_costs_its_last_token() -> None:
    """Whose logits give the answer's first one."""
    for match in (PROMPT - 1, PROMPT, 2 * PROMPT):
        assert cost(replace(peer, match_tokens=match)).prefill_ms == 5.0


@pytest.mark.parametrize(
    ("age_s", "weight"), [(0.0, 1.0), (5.0, 1.0), (65.0, 0.5), (125.0, 0.25), (math.inf, 0.0)]
)
def test_a_summary_counts_less_the_older_it_is(age_s: float, weight: float) -> None:
    for match, of_the_prompt in ((480, 480), (2 * PROMPT, PROMPT)):
        told = replace(peer, match_tokens=match, summary_age_s=age_s)
        assert cost(told).match_tokens == weight * of_the_prompt
    here = replace(this_node, match_tokens=480, summary_age_s=age_s)
    assert cost(here).match_tokens == 480, "it knows its own cache"


def test_unmeasured_rates_are_taken_to_be_typical() -> None:
    unmeasured = replace(peer, prefill_rate=0.0, decode_rate=0.0)
    assert typical_rates([unmeasured]).prefill == PREFILL_RATE_PRIOR
    assert typical_rates([unmeasured]).decode == DECODE_RATE_PRIOR
    rates = (400.0, 900.0)
    mixed = [unmeasured, this_node, *(replace(peer, prefill_rate=rate) for rate in rates)]
    assert typical_rates(mixed).prefill == 400.0
    typical = typical_rates([peer])
    for running in (0, 12):
        ours, theirs = (replace(each, running=running) for each in (unmeasured, peer))
        assert estimate(PROMPT, ANSWER, ours, typical, own=True) == cost(theirs)


def test_what_later_requests_pay_is_a_part_of_the_cost() -> None:
    found = cost(peer)
    later = found.with_later(-90.0).with_later(20.0)
    assert (later.cost_ms, later.later_ms) == (found.cost_ms - 70.0, -70.0)
    assert later.ttft_ms == found.ttft_ms


def test_who_was_late_is_waited_for_again() -> None:
    typical = typical_rates([peer])
    in_time, late = (
        estimate(PROMPT, ANSWER, each, typical, own=True)
        for each in (peer, replace(peer, late_ms=5000.0))
    )
    assert late.ttft_ms - in_time.ttft_ms == pytest.approx(5000.0)
    assert late.cost_ms - in_time.cost_ms == pytest.approx(5000.0)


any_candidate = measured_candidates(st.just(PEER), selves=True)
alphas = st.floats(1, 8)
shares = st.floats(0, 1)


@given(any_candidate, st.integers(0, PROMPT), alphas, shares, st.booleans())
def test_more_match_never_makes_a_candidate_dearer(
    c: Candidate, more: int, alpha: float, busy: float, own: bool
) -> None:
    better = replace(c, match_tokens=c.match_tokens + more)
    before = cost(c, own=own, alpha=alpha, busy=busy).cost_ms
    assert cost(better, own=own, alpha=alpha, busy=busy).cost_ms <= before


@given(
    any_candidate,
    alphas,
    shares,
    st.booleans(),
    st.sampled_from(["rtt_ms", "pending_prefill_tokens", "running", "queued"]),
)
def test_more_distance_or_load_never_makes_it_cheaper(
    c: Candidate, alpha: float, busy: float, own: bool, name: str
) -> None:
    worse = replace(c, **{name: getattr(c, name) + 3})
    before = cost(c, own=own, alpha=alpha, busy=busy).cost_ms
    assert cost(worse, own=own, alpha=alpha, busy=busy).cost_ms >= before
