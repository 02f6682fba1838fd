"""The paper's rule: the longest match, wherever it is and however busy."""

from __future__ import annotations

import random

from overlay.sim.baselines.longest_match import STAY_RATIO, LongestMatch
from tests.overlay.sim.baselines.scene import candidate, choices, idle, peer, prompt

LONG = prompt(*range(10))  # 320 tokens


def longest() -> LongestMatch:
    return LongestMatch(random.Random(1))


def test_the_longest_match_wins_however_busy_and_far() -> None:
    nodes = [candidate(0, own=True, match=64), candidate(1, match=96, queued=40), candidate(2)]
    assert choices(longest(), [LONG], nodes) == [peer(1)]


def test_without_any_match_the_request_stays() -> None:
    assert choices(longest(), [LONG] * 20, idle(4)) == [peer(0)] * 20


def test_an_equal_match_elsewhere_is_no_reason_to_go() -> None:
    nodes = [candidate(0, own=True, match=96), candidate(1, match=96)]
    assert choices(longest(), [LONG] * 20, nodes) == [peer(0)] * 20


def test_equal_matches_elsewhere_share_the_requests() -> None:
    nodes = [candidate(0, own=True), candidate(1, match=96), candidate(2, match=96)]
    assert set(choices(longest(), [LONG] * 50, nodes)) == {peer(1), peer(2)}


def test_a_node_that_does_not_serve_the_model_sends_cold_prompts_anywhere() -> None:
    nodes = [candidate(1), candidate(2)]
    assert set(choices(longest(), [LONG] * 50, nodes)) == {peer(1), peer(2)}


def test_a_match_that_is_long_enough_stays_where_there_is_a_threshold() -> None:
    rule = LongestMatch(random.Random(1), STAY_RATIO)
    half = [candidate(0, own=True, match=160), candidate(1, match=320)]
    less = [candidate(0, own=True, match=128), candidate(1, match=320)]
    assert choices(rule, [LONG], half) == [peer(0)]
    assert choices(rule, [LONG], less) == [peer(1)]
    assert choices(longest(), [LONG], half) == [peer(1)]
