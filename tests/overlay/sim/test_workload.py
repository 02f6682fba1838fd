from __future__ import annotations

import random
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.sim.text import text
from overlay.sim.workload import (
    Conversation,
    Dice,
    Exchange,
    geometric,
    poisson,
    zipf_weights,
)

exchanges = st.lists(
    st.builds(
        Exchange, st.integers(0, 100), st.integers(0, 100), st.floats(0, 100, allow_nan=False)
    ),
    min_size=1,
    max_size=8,
)


@given(exchanges, st.integers(0, 200))
def test_each_turn_begins_with_the_one_before(asked: list[Exchange], opening: int) -> None:
    turns = Conversation(5, text(1, opening), asked)
    assert len(turns) == len(asked)
    assert turns[0].prompt[:opening] == text(1, opening)
    for before, turn, exchange in zip(turns, turns[1:], asked[1:], strict=False):
        history = before.prompt + before.answer
        assert turn.prompt[: len(history)] == history
        assert len(turn.prompt) == len(history) + exchange.said_tokens
        assert turn.pause_s == exchange.pause_s
    assert [len(turn.answer) for turn in turns] == [e.answer_tokens for e in asked]


def test_conversations_of_other_names_share_the_opening_only() -> None:
    one, other = (Conversation(name, text(0, 40), [Exchange(32, 32)])[0] for name in (1, 2))
    assert one.prompt[:40] == other.prompt[:40]
    assert one.prompt[40:] != other.prompt[40:]
    assert one.answer != other.answer


def test_turns_are_indexed_like_any_sequence() -> None:
    turns = Conversation(1, (), [Exchange(3, 2), Exchange(4, 1)])
    assert turns[-1] == turns[1]
    assert list(turns) == turns[:]
    with pytest.raises(IndexError):
        turns[2]


def test_streams_of_chance_are_apart() -> None:
    one, other = (Dice.of(random.Random(3)) for _ in range(2))
    one.popularity.random()
    assert one.arrivals.random() == other.arrivals.random()
    assert len({stream.random() for stream in Dice.of(random.Random(3))}) == len(one)


def test_arrivals_come_at_the_rate_that_was_asked_for() -> None:
    times = list(islice(poisson(random.Random(1), 50.0), 10_000))
    gaps = [after - before for before, after in pairwise(times)]
    assert times[-1] == pytest.approx(200, rel=0.05)
    assert min(gaps) > 0
    # An exponential spread: 1/e of the gaps are longer than the mean.
    assert sum(gap > 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)


def test_weights_follow_zipf() -> None:
    assert zipf_weights(3, 0) == [1, 2, 3]
    assert zipf_weights(3, 1) == pytest.approx([1, 1.5, 1.5 + 1 / 3])


@pytest.mark.parametrize("mean", [1.0, 2.5, 64.0])
def test_geometric_lengths(mean: float) -> None:
    dice = random.Random(1)
    drawn = [geometric(dice, mean) for _ in range(20_000)]
    assert min(drawn) == 1
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.03)
