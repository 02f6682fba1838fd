"""Whoever answers far later than it lets expect is expected to do so again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX
from overlay.routing.lateness import (
    ANSWERS,
    GROSS,
    HALF_LIFE_S,
    LATE_ANSWERS_MIN,
    LATE_MS_MIN,
    LATE_MS_MIN_PASSED_ON,
    Lateness,
    late_ms,
)

PEER, OTHER = (PeerId(bytes([n]) * 32) for n in (1, 2))
LATE_MS = 20_000.0


def after(*lates: float) -> Lateness:
    lateness = Lateness()
    for late in lates:
        lateness.answered(PEER, late, 0.0)
    return lateness


@pytest.mark.parametrize(
    ("expected", "actual", "passed_on", "late"),
    [
        (5.0, LATE_MS_MIN, False, False),
        (5.0, LATE_MS_MIN + 10.0, False, True),
        (5.0, LATE_MS_MIN + 10.0, True, False),
        (5.0, LATE_MS_MIN_PASSED_ON + 10.0, True, True),
        (5000.0, 5000.0 * GROSS, False, False),
        (5000.0, 5000.0 * GROSS + 1.0, False, True),
    ],
)
def test_only_what_is_grossly_late_is_late(
    expected: float, actual: float, passed_on: bool, late: bool
) -> None:
    assert late_ms(expected, actual, passed_on=passed_on) == (actual - expected if late else 0.0)


def test_who_is_late_as_a_rule_is_expected_to_be_late() -> None:
    assert after(*[LATE_MS] * (LATE_ANSWERS_MIN - 1)).of(PEER, 0.0) == 0.0
    lateness = after(*[LATE_MS] * ANSWERS)
    assert lateness.of(PEER, 0.0) == LATE_MS
    assert lateness.of(OTHER, 0.0) == 0.0


def test_half_of_it_is_forgotten_with_time_and_all_of_it_by_answers_in_time() -> None:
    lateness = after(*[LATE_MS] * ANSWERS)
    assert lateness.of(PEER, HALF_LIFE_S) == LATE_MS / 2
    for _ in range(ANSWERS - LATE_ANSWERS_MIN + 1):
        lateness.answered(PEER, 0.0, HALF_LIFE_S)
    assert lateness.of(PEER, HALF_LIFE_S) == 0.0


def test_who_is_tried_again_and_is_late_again_is_known_at_once() -> None:
    lateness = after(*[LATE_MS] * ANSWERS)
    lateness.answered(PEER, LATE_MS, 10 * HALF_LIFE_S)
    assert lateness.of(PEER, 10 * HALF_LIFE_S) == LATE_MS


@given(st.lists(st.sampled_from([0.0, LATE_MS]), max_size=20))
def test_late_answers_count_while_they_are_most_of_the_latest(lates: list[float]) -> None:
    late = sum(each > 0 for each in lates[-ANSWERS:])
    assert (after(*lates).of(PEER, 0.0) > 0) == (late >= LATE_ANSWERS_MIN)


def test_only_so_many_peers_are_remembered() -> None:
    lateness = after(*[LATE_MS] * ANSWERS)
    for late in (0.0, LATE_MS):
        assert lateness.of(PEER, 0.0) == LATE_MS, "those in time take nobody's place"
        for number in range(MEMBERS_MAX):
            lateness.answered(PeerId(number.to_bytes(32, "big")), late, 0.0)
    assert lateness.of(PEER, 0.0) == 0.0
