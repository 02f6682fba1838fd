"""What a node's own clients ask for again."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.routing.history import BLOCKS_MAX, HALF_LIFE_S, PREFIXES_MAX, History

SYSTEM = tuple(range(10))


def test_questions_on_one_text_come_again_but_do_not_go_on() -> None:
    history = History()
    for number in range(200):
        history.asked((*SYSTEM, 1000 + number))
    assert history.again == pytest.approx(10 / 11, abs=0.01)
    assert history.goes_on == 0


@pytest.mark.parametrize("blocks", [1, 10])
def test_turns_of_conversations_go_on(blocks: int) -> None:
    history = History()
    for chat in range(50):
        for turns in range(1, 5):
            history.asked(tuple(range(100 * chat, 100 * chat + blocks * turns)))
    assert history.goes_on == pytest.approx(3 / 4, abs=0.05)


def test_what_is_new_was_not_asked_before() -> None:
    history = History()
    for number in range(100):
        history.asked((2 * number, 2 * number + 1))
    assert history.again == pytest.approx(0, abs=0.03)
    assert history.goes_on == 0
    history.asked(())


def test_uses_of_a_prefix_add_up_and_fade() -> None:
    history, later = History(), [n * HALF_LIFE_S for n in range(5, 9)]
    history.used(9, later[0], held=False, stays=False)
    history.used(9, later[1], held=False, stays=False)
    assert history.uses((8, 9, 10), later[1]) == 1.5
    assert history.uses((8, 9, 10), later[2]) == 0.75
    assert history.uses((8,), later[1]) == 0


def test_a_longer_prompt_counts_the_uses_of_its_beginnings() -> None:
    history = History()
    history.used(1, 0.0, held=False, stays=False)
    history.used(2, 0.0, held=False, stays=False)
    assert history.uses((1, 2, 3), 0.0) == 2.0


def test_nothing_goes_until_something_was_seen_to_go() -> None:
    history = History()
    for n in range(10):
        history.used(9, float(n), held=n > 0, stays=True)
    assert history.uses_before_gone(0.0, 10.0) == math.inf


def test_what_was_never_here_is_not_gone() -> None:
    history = History()
    for n in range(10):
        history.used(9, float(n), held=False, stays=False)
    assert history.uses_before_gone(history.uses((9,), 10.0), 10.0) == math.inf


def test_how_often_a_prefix_is_needed_before_it_goes_is_learnt_from_all_that_came_again() -> None:
    """A cache has room for 6 of 20 prefixes, of which the k-th is needed k^-1.2 as often."""
    history, rng, now = History(), random.Random(1), 0.0
    cache: list[int] = []
    hits, misses = Counter[int](), Counter[int]()
    for prefix in rng.choices(range(20), [k**-1.2 for k in range(1, 21)], k=5000):
        now += rng.expovariate(0.2)
        held = prefix in cache
        (hits if held else misses)[prefix] += 1
        history.used(prefix, now, held=held, stays=True)
        cache = [prefix, *(other for other in cache if other != prefix)][:6]

    def expected(prefix: int) -> float:
        return history.uses_before_gone(history.uses((prefix,), now), now)

    for prefix in (1, 2, 5):
        assert 1 / 3 < expected(prefix) / (hits[prefix] / misses[prefix]) < 3
    assert expected(0) > 10 * expected(5)
    assert expected(20) == 0.0, "nobody has needed it"


def test_a_cache_that_keeps_more_than_before_is_noticed() -> None:
    history, now = History(), 0.0
    history.used(9, now, held=False, stays=True)
    for held in (False, *[True] * 100):
        now += 60.0
        history.used(9, now, held=held, stays=True)
    before = history.uses_before_gone(1.0, now)
    for _ in range(100):
        now += 600.0
        history.used(9, now, held=True, stays=True)
    assert history.uses_before_gone(1.0, now) > 3 * before


def test_of_what_was_asked_the_oldest_prompts_ends_are_forgotten_first() -> None:
    def known(block: int) -> bool:
        history = History()
        history.asked(range(BLOCKS_MAX))
        history.asked((-1,))
        before = history.again
        history.asked((block,))
        return history.again > before

    assert known(-1)
    assert known(0), "beginnings are shared by most"
    assert known(BLOCKS_MAX - 2)
    assert not known(BLOCKS_MAX - 1)


def test_only_so_many_ends_of_prompts_are_remembered() -> None:
    for others, goes_on in ((PREFIXES_MAX - 1, True), (PREFIXES_MAX, False)):
        history = History()
        for number in range(others + 1):
            history.asked((number,))
        history.asked((0, -1))
        assert (history.goes_on > 0) == goes_on


@given(st.lists(st.integers(0, 2 * PREFIXES_MAX), max_size=50))
def test_it_stays_bounded(prefixes: list[int]) -> None:
    history = History()
    for now, prefix in enumerate([*range(PREFIXES_MAX), *prefixes]):
        history.used(prefix, float(now), held=False, stays=False)
    assert sum(history.uses((p,), 1e5) > 0 for p in range(2 * PREFIXES_MAX + 1)) <= PREFIXES_MAX
