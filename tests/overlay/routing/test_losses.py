"""How much of what is computed was thrown away before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.routing.losses import BLOCKS_MAX, PRIOR, Losses


def test_what_had_gone_and_is_computed_again_was_lost() -> None:
    losses = Losses()
    losses.computed([1, 2, 3])
    losses.gone([1, 2])
    assert losses.share == 0, "nobody has needed them yet"
    losses.computed([1])
    lost_once = losses.share
    assert 0 < lost_once < 1 / PRIOR
    losses.computed([1])
    assert losses.share < lost_once, "it is lost once"


def test_what_somebody_else_computed_is_there_again() -> None:
    losses = Losses()
    losses.gone([1, 2])
    assert losses.found([2, 2, 3]) == 1
    losses.computed([2])
    assert losses.share == 0


def test_the_share_is_of_all_that_was_computed_lately() -> None:
    losses = Losses()
    losses.gone(range(0, 4000, 4))
    for block in range(4000):
        losses.computed([block])
    assert losses.share == pytest.approx(1 / 4, abs=0.02)


def test_old_losses_fade() -> None:
    losses = Losses()
    losses.gone(range(2000))
    losses.computed(range(2000))
    short_of_room = losses.share
    assert short_of_room > 0.8
    losses.computed(range(3000, 5000))
    assert losses.share < short_of_room / 4


def test_the_oldest_are_forgotten() -> None:
    losses = Losses()
    losses.gone(range(BLOCKS_MAX + 1))
    losses.computed([0])
    assert losses.share == 0
    losses.computed([1])
    assert losses.share > 0


events = st.lists(
    st.tuples(st.sampled_from(["gone", "found", "computed"]), st.lists(st.integers(0, 9))),
    max_size=40,
)


@given(events)
def test_the_share_is_one(happened: list[tuple[str, list[int]]]) -> None:
    losses = Losses()
    for what, blocks in happened:
        getattr(losses, what)(blocks)
        assert 0 <= losses.share < 1
