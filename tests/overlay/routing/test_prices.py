"""What time and memory are worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.peer_id import PeerId
from overlay.routing.cost import BUSY_MAX, Candidate
from overlay.routing.prices import (
    ALPHA_MAX,
    HALF_LIFE_S,
    LOOK_MAX,
    SPARE_WORTH,
    USES_EXPECTED,
    Prices,
    copy_worth,
    memory_price,
)

A, B = (PeerId(bytes([n]) * 32) for n in (1, 2))
idle, busy = Candidate(A), Candidate(B, pending_prefill_tokens=1)


def test_all_is_cheap_in_an_idle_mesh() -> None:
    prices = Prices()
    prices.seen([idle, Candidate(B)], 100.0)
    assert (prices.memory, prices.alpha(A), prices.alpha(B)) == (1.0, 1.0, 1.0)


def seen_for(prices: Prices, half_lives: int, candidates: list[Candidate]) -> None:
    for now in range(1, 1 + half_lives * round(HALF_LIFE_S)):
        prices.seen(candidates, float(now))


def test_the_time_of_a_node_alone_is_as_dear_as_it_is_busy() -> None:
    prices = Prices()
    seen_for(prices, 1, [busy])
    assert (prices.busy(B), prices.alpha(B)) == pytest.approx((0.5, 2.0))
    prices.seen([Candidate(B)], 2 * HALF_LIFE_S)
    assert prices.busy(B) == pytest.approx(0.25), "it forgets"


def test_the_time_of_a_busy_node_is_dearer_than_that_of_others() -> None:
    prices = Prices()
    seen_for(prices, 4, [idle, busy])
    assert prices.busy(A) == 0.0
    assert prices.busy(B) == pytest.approx(15 / 16)
    assert prices.alpha(B) > 4 * prices.alpha(A)


def test_even_the_busiest_node_is_taken_to_have_time_some_day() -> None:
    prices = Prices()
    seen_for(prices, 20, [busy])
    assert prices.busy(B) == pytest.approx(1.0)
    assert prices.alpha(B) == 1 / (1 - BUSY_MAX)


def test_nodes_that_are_mostly_idle_are_taken_to_be_alike() -> None:
    """That one was seen busy once tells of a moment that is past."""
    prices = Prices()
    others = [Candidate(PeerId(bytes([n]) * 32)) for n in range(3, 9)]
    prices.seen([idle, busy, *others], 1e6)
    assert prices.busy(B) == LOOK_MAX
    assert prices.alpha(B) - prices.alpha(A) < (1 / (1 - LOOK_MAX) - 1) / 3


def test_one_look_after_a_quiet_hour_tells_little() -> None:
    prices = Prices()
    prices.seen([busy], 1e6)
    assert prices.alpha(B) == 1 / (1 - LOOK_MAX)


def test_losses_make_memory_dear_everywhere() -> None:
    prices = Prices()
    prices.seen([idle, Candidate(B, lost_share=1.0)], 1.0)
    assert (prices.memory, prices.alpha(A)) == (4.0, 4.0)


@given(
    st.lists(st.floats(0.1, 0.5), min_size=2, max_size=9),
    st.lists(st.sampled_from([0.0, 1.0]), max_size=9),
)
def test_lies_of_fewer_than_half_the_nodes_move_no_price_beyond_what_honest_ones_say(
    honest: list[float], lies: list[float]
) -> None:
    lies = lies[: len(honest) - 1]
    assert memory_price([min(honest)]) <= memory_price(honest + lies) <= memory_price([max(honest)])


@pytest.mark.parametrize("memory", [1.0, 1.5, 4.0, 25.0])
def test_a_copy_is_worth_its_ways_against_the_power_and_the_room_that_it_takes(
    memory: float,
) -> None:
    """The way is spared once, and as often as a prefix comes after that. Memory takes its part of
    what is spared, too."""
    spared_s = (1 + USES_EXPECTED) / memory
    spent_s = copy_worth(memory) * (SPARE_WORTH + memory - 1)
    assert spent_s == pytest.approx(spared_s)


@given(st.lists(st.tuples(st.floats(0, 60), st.booleans(), st.floats(0, 1)), max_size=30))
def test_prices_stay_within_bounds(seen: list[tuple[float, bool, float]]) -> None:
    prices = Prices()
    now = 0.0
    for pause_s, is_busy, lost in seen:
        now += pause_s
        prices.seen([Candidate(A, pending_prefill_tokens=is_busy, lost_share=lost)], now)
        assert 0 <= prices.busy(A) <= 1
        assert prices.memory >= 1
        assert 1 <= prices.alpha(A) <= ALPHA_MAX
