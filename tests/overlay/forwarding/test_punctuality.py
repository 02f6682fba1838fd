"""Who let a request down: left alone, doubted with others, or expected to be late."""

from __future__ import annotations

import pytest

from models.engine import Sampling
from overlay.forwarding.job import Expected, Job
from overlay.forwarding.punctuality import Punctuality
from overlay.identity.peer_id import PeerId
from overlay.routing.lateness import LATE_ANSWERS_MIN

ME, PEER, OTHER = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))
#: When patience ends, with a request that was sent at 0 s.
DUE_S = 50.5
LATE_S, EARLY_S, STALLED_S = 50.0, 1.0, 52.0


def waiting_for(downstream: PeerId, *, passed_on: bool = False) -> Job:
    """A request that was to begin its answer after 0.1 s."""
    job = Job(b"r" * 16, "toy", "", Sampling(), None, (), 1, 0.0, 600.0)
    job.dispatch(downstream, 1.0)
    job.expected = Expected(at_s=0.0, ttft_ms=100.0, token_ms=10.0, generated=0)
    job.patience_until = DUE_S
    if passed_on:
        job.executor = OTHER
    return job


@pytest.mark.parametrize(
    ("lost", "passed_on", "now", "left_alone", "doubted"),
    [
        (False, False, LATE_S, True, True),
        (True, False, LATE_S, False, True),  # the network may be the cause
        (False, True, LATE_S, False, True),  # or the one that it was passed on to
        (False, True, DUE_S, True, True),  # of which the peer was to say so before
        (False, False, EARLY_S, False, False),
        (True, False, EARLY_S, False, False),
        (False, False, STALLED_S, False, False),  # this node was the one that was away
    ],
)
def test_who_lets_a_request_down_late_is_left_alone_unless_others_may_be_the_cause(
    lost: bool, passed_on: bool, now: float, left_alone: bool, doubted: bool
) -> None:
    punctuality = Punctuality(ME)
    for _ in range(LATE_ANSWERS_MIN):
        punctuality.let_down(waiting_for(PEER, passed_on=passed_on), now, lost=lost)
    assert punctuality.left_alone.has(PEER, now) == left_alone
    assert punctuality.left_alone.doubts(OTHER, now) == doubted
    assert (punctuality.lateness.of(PEER, now) > 0) == (doubted and not left_alone)


def test_who_was_waited_for_in_vain_is_left_alone_however_long_it_was_expected_to_take() -> None:
    punctuality, job = Punctuality(ME), waiting_for(PEER)
    job.expected = Expected(at_s=0.0, ttft_ms=1000 * LATE_S, token_ms=10.0, generated=0)
    punctuality.let_down(job, LATE_S, lost=False)
    assert not punctuality.left_alone.has(PEER, LATE_S)
    punctuality.let_down(job, DUE_S, lost=False)
    assert punctuality.left_alone.has(PEER, DUE_S)


@pytest.mark.parametrize("now", [LATE_S, DUE_S])
def test_who_answered_the_request_before_is_only_late_the_first_time(now: float) -> None:
    punctuality = Punctuality(ME)
    for _ in range(LATE_ANSWERS_MIN):
        punctuality.left_alone.answered(PEER)
        punctuality.let_down(waiting_for(PEER), now, lost=False)
        assert not punctuality.left_alone.has(PEER, now)
    assert punctuality.lateness.of(PEER, now) > 0
    punctuality.let_down(waiting_for(PEER), now, lost=False)
    assert punctuality.left_alone.has(PEER, now)


def test_who_lets_a_request_down_answers_no_more() -> None:
    punctuality = Punctuality(ME)
    punctuality.left_alone.answered(PEER)
    punctuality.let_down(waiting_for(PEER), EARLY_S, lost=False)
    assert not punctuality.left_alone.answers(PEER)


def test_nobody_learns_of_a_peer_from_what_runs_here_or_from_its_own_sleep() -> None:
    punctuality = Punctuality(ME)
    for _ in range(LATE_ANSWERS_MIN):
        punctuality.waited(waiting_for(ME), LATE_S)
        punctuality.waited(waiting_for(PEER), STALLED_S)
    assert punctuality.lateness.of(ME, LATE_S) == punctuality.lateness.of(PEER, STALLED_S) == 0
    for _ in range(LATE_ANSWERS_MIN):
        punctuality.waited(waiting_for(PEER), LATE_S)
    assert punctuality.lateness.of(PEER, LATE_S) > 0


def test_a_node_that_slept_waits_a_little_longer() -> None:
    punctuality = Punctuality(ME)
    assert punctuality.after_sleep(waiting_for(PEER), DUE_S) is None
    until = punctuality.after_sleep(waiting_for(PEER), STALLED_S)
    assert until is not None
    assert until > STALLED_S
