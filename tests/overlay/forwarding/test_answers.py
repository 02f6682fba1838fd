"""The length of answers is learnt as they end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engine import Sampling
from overlay.forwarding.answers import TOKENS_PRIOR, AnswerLengths
from overlay.forwarding.job import Job


def job(tokens: int, *, most: int | None = None, model: str = "m") -> Job:
    """One whose answer has so many tokens."""
    return Job(
        request_id=b"r" * 16,
        model=model,
        prompt="",
        sampling=Sampling(max_tokens=most),
        upstream=None,
        path=(),
        hop_limit=1,
        submitted_at=0.0,
        deadline=60.0,
        generated=[1] * tokens,
    )


def test_until_an_answer_has_ended_a_paragraph_or_two_are_expected() -> None:
    assert AnswerLengths().left(job(0)) == TOKENS_PRIOR
    assert AnswerLengths().left(job(100)) == TOKENS_PRIOR - 100
    assert AnswerLengths().left(job(0, most=10)) == 10


@pytest.mark.parametrize("length", [1, 30, 2000])
def test_answers_are_expected_to_be_as_long_as_the_latest_ones(length: int) -> None:
    lengths = AnswerLengths()
    for _ in range(100):
        lengths.ended(job(length))
    assert lengths.left(job(0)) == length
    assert lengths.left(job(0, most=20)) == min(length, 20)
    assert lengths.left(job(0, model="other")) == TOKENS_PRIOR


def test_an_answer_that_was_cut_short_does_not_say_that_answers_are_short() -> None:
    lengths = AnswerLengths()
    for _ in range(100):
        lengths.ended(job(8, most=8))
    assert lengths.left(job(0)) == TOKENS_PRIOR
    for _ in range(100):
        lengths.ended(job(1000, most=1000))
    assert lengths.left(job(0)) == 1000


@given(st.lists(st.tuples(st.integers(0, 500), st.none() | st.integers(0, 100))), st.integers(0))
def test_what_is_expected_lies_between_what_has_been(
    ended: list[tuple[int, int | None]], begun: int
) -> None:
    lengths = AnswerLengths()
    for tokens, most in ended:
        lengths.ended(job(tokens if most is None else min(tokens, most), most=most))
    begun %= 600
    seen = [TOKENS_PRIOR, *(tokens for tokens, _ in ended)]
    assert 1 <= lengths.left(job(begun)) <= max(1, max(seen) - begun)


def test_names_that_anybody_makes_up_take_no_room() -> None:
    lengths = AnswerLengths()
    for number in range(1000):
        lengths.ended(job(1, model=str(number)))
    assert len(lengths._tokens) < 100
