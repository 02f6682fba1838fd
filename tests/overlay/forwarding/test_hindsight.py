"""What counts as a misprediction, and as a blind decision."""

from __future__ import annotations

import pytest

from overlay.errors import Unreachable
from overlay.forwarding.explanations import Actual, Cause, Explanation
from overlay.forwarding.hindsight import (
    TTFT_RATIO_BOUNDS,
    Hindsight,
    Match,
    match_error_tokens,
)
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.identity.peer_id import PeerId
from overlay.routing.cost import Estimate
from overlay.routing.decision import Decision

ME, PEER, THIRD = (PeerId(bytes([n]) * 32) for n in (1, 2, 3))


def story(
    *,
    choice: PeerId = PEER,
    executor: PeerId = PEER,
    estimated: int = 640,
    cached: int = 639,
    blind: bool = False,
    ttft_ms: float = 120.0,
    asked_by: PeerId | None = None,
    failed_first: bool = False,
) -> Explanation:
    """Decided 20 ms after it was asked, with 100 ms predicted from then to the first token."""
    known = Neighbourhood(ME)
    known.link_measured(PEER, rtt_ms=10.0, summary_at=5.0)
    told = Explanation(bytes(16), "toy", asked_by, asked_at=5.0)
    estimates = tuple(
        Estimate(
            peer=peer,
            is_self=peer == ME,
            cost_ms=1000.0,
            rtt_ms=10.0,
            wait_ms=40.0,
            prefill_ms=50.0,
            decode_ms=800.0,
            match_tokens=estimated,
            alpha=2.0,
        )
        for peer in (ME, PEER)
    )
    decision = Decision(choice, estimates, blind, 650)
    for _ in range(2 if failed_first else 1):
        told.decided(decision, known, 5.02)
    if failed_first:
        told.attempts[0].error = Cause.of(Unreachable("gone"))
    told.answered(
        Actual(
            executor=executor,
            hops=int(executor != ME),
            route="forwarded",
            prompt_tokens=650,
            cached_tokens=cached,
            completion_tokens=8,
            ttft_ms=ttft_ms,
            queue_ms=1.0,
            prefill_ms=20.0,
            decode_ms=80.0,
            total_ms=200.0,
        )
    )
    return told


def seen(*stories: Explanation) -> Hindsight:
    hindsight = Hindsight()
    for each in stories:
        hindsight.decided(each)
        hindsight.answered(each)
    return hindsight


@pytest.mark.parametrize(
    ("estimated", "cached", "match", "error"),
    [
        (640, 639, Match.RIGHT, 0),
        (640, 649, Match.RIGHT, 0),
        (0, 31, Match.RIGHT, 0),
        (640, 608, Match.OVERESTIMATED, 32),
        (640, 0, Match.OVERESTIMATED, 640),
        (0, 32, Match.UNDERESTIMATED, 32),
    ],
)
def test_less_than_a_block_is_no_error(
    estimated: int, cached: int, match: Match, error: int
) -> None:
    hindsight = seen(story(estimated=estimated, cached=cached))
    assert hindsight.matches == {match: 1}
    assert hindsight.error_tokens[match] == error


def test_what_was_passed_on_cannot_be_compared() -> None:
    told = story(choice=PEER, executor=THIRD, estimated=640, cached=0)
    assert match_error_tokens(told) is None
    hindsight = seen(told)
    assert hindsight.matches == {Match.PASSED_ON: 1}
    assert not hindsight.error_tokens


@pytest.mark.parametrize(
    ("told", "blind"),
    [
        (story(), False),
        # Nothing was known of anybody, wherever it went then.
        (story(choice=ME, executor=ME, estimated=0, cached=0, blind=True), True),
        (story(estimated=0, cached=0, blind=True), True),
        # Nothing was expected of a peer that turned out warm.
        (story(estimated=0, cached=640), True),
        (story(choice=PEER, executor=THIRD, estimated=0, cached=640), True),
        # A few tokens of a template are in every cache.
        (story(estimated=0, cached=31), False),
        (story(estimated=0, cached=32), True),
        # A node knows its own cache: it may have been filled while the request waited.
        (story(choice=ME, executor=ME, estimated=0, cached=640), False),
    ],
)
def test_blind_decisions(told: Explanation, blind: bool) -> None:
    assert seen(told).blind_decisions == blind


def test_decisions_are_counted_by_who_asked_and_where_it_went() -> None:
    hindsight = seen(
        story(),
        story(choice=ME, executor=ME),
        story(choice=ME, executor=ME, asked_by=THIRD),
        story(asked_by=THIRD),
        story(),
    )
    assert hindsight.decisions == {
        ("client", "peer"): 2,
        ("client", "self"): 1,
        ("peer", "self"): 1,
        ("peer", "peer"): 1,
    }
    assert hindsight.matches.total() == 3, "a request counts where it was asked"


def test_the_prediction_of_the_first_token_weighs_nothing() -> None:
    assert story().attempts[0].decision.chosen.ttft_ms == 100.0


@pytest.mark.parametrize(
    ("ttft_ms", "bucket"), [(10.0, 0), (44.0, 0), (120.0, 3), (144.0, 3), (146.0, 4), (2000.0, 7)]
)
def test_times_are_compared_from_the_decision_on(ttft_ms: float, bucket: int) -> None:
    hindsight = seen(story(ttft_ms=ttft_ms))
    expected = [0] * (len(TTFT_RATIO_BOUNDS) + 1)
    expected[bucket] = 1
    assert hindsight.ttft_ratios == expected
    assert hindsight.ttft_ratio_sum == pytest.approx(max(0.0, ttft_ms - 20) / 100)


def test_after_a_failure_no_prediction_holds() -> None:
    hindsight = seen(story(failed_first=True))
    assert sum(hindsight.ttft_ratios) == 0
    assert hindsight.matches == {Match.RIGHT: 1}
