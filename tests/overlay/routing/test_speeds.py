"""Slow nodes get another chance."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.gossip.records import RATE_MAX, RATE_MIN
from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX
from overlay.routing.cost import Candidate, Rates, typical_rates
from overlay.routing.cost_policy import CostPolicy
from overlay.routing.policy import Question
from overlay.routing.speeds import HALF_LIFE_S, Speeds

SELF, SLOW, OTHER = (PeerId(bytes([n]) * 32) for n in (1, 2, 3))
replace = Candidate._replace
TYPICAL = Rates(prefill=200.0, decode=20.0)
slow = Candidate(SLOW, rtt_ms=3.0, prefill_rate=20.0, decode_rate=2.0)


def believed(speeds: Speeds, candidate: Candidate, now: float) -> tuple[float, float]:
    (found,) = speeds.believed([candidate], TYPICAL, now)
    return found.prefill_rate, found.decode_rate


def test_half_of_what_makes_it_slow_is_forgotten_with_time() -> None:
    speeds = Speeds()
    assert believed(speeds, slow, 0.0) == (20.0, 2.0)
    # In time: of the 45 ms for each token that it takes longer, 22.5.
    halfway = pytest.approx((1000 / 27.5, 1000 / 275))
    assert believed(speeds, slow, HALF_LIFE_S) == halfway
    assert believed(speeds, replace(slow, running=1), HALF_LIFE_S) == (20.0, 2.0)
    assert believed(speeds, slow, 2 * HALF_LIFE_S) == halfway
    assert believed(speeds, replace(slow, queued=1), 2 * HALF_LIFE_S) == (20.0, 2.0)
    assert believed(speeds, slow, 2 * HALF_LIFE_S) == (20.0, 2.0)
    assert believed(speeds, replace(slow, prefill_rate=30.0), 2 * HALF_LIFE_S)[0] == 30.0


def test_a_decision_without_it_is_no_sign_that_a_node_is_at_work() -> None:
    """It may have passed the request on itself, so that it is no candidate."""
    speeds = Speeds()
    believed(speeds, slow, 0.0)
    believed(speeds, replace(slow, peer=OTHER), HALF_LIFE_S / 2)
    assert believed(speeds, slow, HALF_LIFE_S) != (20.0, 2.0)


def test_only_so_many_nodes_are_remembered() -> None:
    speeds = Speeds()
    believed(speeds, slow, 0.0)
    for number in range(MEMBERS_MAX):
        believed(speeds, replace(slow, peer=PeerId(number.to_bytes(32, "big"))), 1.0)
    assert believed(speeds, slow, HALF_LIFE_S) == (20.0, 2.0)


def test_nobody_is_taken_to_be_fast_because_somebody_says_to_be() -> None:
    """A peer's rates are what it says: they must not make light of what this node has to do."""
    boast = Candidate(OTHER, rtt_ms=3.0, prefill_rate=RATE_MAX, decode_rate=RATE_MAX)
    own = replace(slow, peer=SELF)
    typical = typical_rates([own, boast])
    assert typical == Rates(own.prefill_rate, own.decode_rate)
    speeds = Speeds()
    speeds.believed([own], Rates(RATE_MAX, RATE_MAX), 0.0)
    (found,) = speeds.believed([own], Rates(RATE_MAX, RATE_MAX), HALF_LIFE_S)
    assert found.prefill_rate == pytest.approx(2 * own.prefill_rate)


def test_a_slow_node_is_tried_again_where_all_are_cold() -> None:
    policy = CostPolicy(random.Random(0))
    fast = Candidate(OTHER, rtt_ms=40.0, prefill_rate=200.0, decode_rate=20.0)
    question = Question(640, (), 1, forwarded=False)
    tried = []
    for minute in range(120):
        choice = policy.decide(question, [slow, fast, replace(fast, peer=SELF)], 60.0 * minute)
        tried.append(choice.choice == SLOW)
    assert not any(tried[:20])
    assert any(tried)


@given(
    st.just(0.0) | st.floats(RATE_MIN, 1e4),
    st.just(0.0) | st.floats(RATE_MIN, 1e3),
    st.floats(0, 1e5),
)
def test_belief_lies_between_what_was_measured_and_what_is_typical(
    prefill: float, decode: float, idle_s: float
) -> None:
    speeds, typical = Speeds(), Rates(prefill=500.0, decode=50.0)
    measured = replace(slow, prefill_rate=prefill, decode_rate=decode)
    speeds.believed([measured], typical, 0.0)
    (found,) = speeds.believed([measured], typical, idle_s)
    for rate, believed, others in (
        (prefill, found.prefill_rate, typical.prefill),
        (decode, found.decode_rate, typical.decode),
    ):
        # Nobody is taken to be slower than it was, and who has measured nothing stays unknown.
        most = max(rate, others) if rate else 0.0
        assert rate * (1 - 1e-9) <= believed <= most * (1 + 1e-9)
