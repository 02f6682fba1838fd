"""What a node's own clients ask for again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.routing.history import HALF_LIFE_S, PREFIXES_MAX, History, Used

SYSTEM = tuple(range(10))


def test_questions_on_one_text_come_again_but_do_not_go_on() -> None:
    history = History()
    for number in range(200):
        history.asked((*SYSTEM, 1000 + number))
    assert history.again == pytest.approx(10 / 11, abs=0.01)
    assert history.goes_on == 0


def test_turns_of_conversations_go_on() -> None:
    history = History()
    for chat in range(50):
        for turns in range(1, 5):
            history.asked(tuple(range(100 * chat, 100 * chat + 10 * turns)))
    assert history.goes_on == pytest.approx(3 / 4, abs=0.05)


def test_what_is_new_was_not_asked_before() -> None:
    history = History()
    for number in range(100):
        history.asked((2 * number, 2 * number + 1))
    assert (history.again, history.goes_on) == (0, 0)
    history.asked(())


def test_rents_of_a_prefix_add_up_and_fade() -> None:
    history = History()
    history.used(9, 200.0, 0.0)
    history.used(9, 100.0, HALF_LIFE_S)
    assert history.of((8, 9, 10), HALF_LIFE_S) == Used(1.5, 200.0)
    assert history.of((8, 9, 10), 2 * HALF_LIFE_S) == Used(0.75, 100.0)
    assert history.of((8,), HALF_LIFE_S) == Used(0, 0)


def test_a_longer_prompt_counts_what_its_beginnings_paid() -> None:
    history = History()
    history.used(1, 100.0, 0.0)
    history.used(2, 50.0, 0.0)
    assert history.of((1, 2, 3), 0.0) == Used(2.0, 150.0)


@given(st.lists(st.integers(0, 2 * PREFIXES_MAX), max_size=50))
def test_it_stays_bounded(prefixes: list[int]) -> None:
    history = History()
    for now, prefix in enumerate([*range(PREFIXES_MAX), *prefixes]):
        history.used(prefix, 1.0, float(now))
    assert sum(history.of((p,), 1e5).uses > 0 for p in range(2 * PREFIXES_MAX + 1)) <= PREFIXES_MAX
