from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from overlay.sim.workload import Session
from overlay.sim.workloads.parameters import Span
from overlay.sim.workloads.zipf import Zipf


def sessions(zipf: Zipf, count: int, seed: int = 1) -> list[Session]:
    return list(islice(zipf.sessions(random.Random(seed), nodes=4, rate_per_s=10), count))


def test_a_few_prefixes_are_shared_and_all_questions_differ() -> None:
    prompts = [s.turns[0].prompt for s in sessions(Zipf(groups=5), 200)]
    assert len({prompt[:600] for prompt in prompts}) == 5
    assert len({prompt[:32] for prompt in prompts}) == 5
    assert len({prompt[600:] for prompt in prompts}) == 200
    assert {len(prompt) - 600 for prompt in prompts} == set(range(30, 61))


@pytest.mark.parametrize("skew", [0.0, 1.0, 1.6])
def test_groups_are_asked_for_as_zipf_says(skew: float) -> None:
    zipf = Zipf(groups=8, skew=skew, prefix=Span(32, 32), question=Span(1, 1), answer=1)
    asked = Counter(s.turns[0].prompt[:32] for s in sessions(zipf, 20_000))
    weights = [rank**-skew for rank in range(1, 9)]
    expected = [20_000 * weight / sum(weights) for weight in weights]
    assert sorted(asked.values(), reverse=True) == pytest.approx(expected, rel=0.15)


def test_another_skew_leaves_times_lengths_and_origins_as_they_are() -> None:
    def frame(zipf: Zipf) -> list[tuple[float, int, int, int]]:
        return [
            (s.at_s, s.origin, len(s.turns[0].prompt), len(s.turns[0].answer))
            for s in sessions(zipf, 50)
        ]

    assert frame(Zipf(skew=0)) == frame(Zipf(skew=1.6))


def test_prefixes_of_different_lengths() -> None:
    zipf = Zipf(groups=40, skew=0, prefix=Span(100, 900), question=Span(50, 50), answer=1)
    lengths = {len(s.turns[0].prompt) - 50 for s in sessions(zipf, 400)}
    assert 20 < len(lengths) <= 40
    assert min(lengths) >= 100
    assert max(lengths) <= 900
