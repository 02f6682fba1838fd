from __future__ import annotations

import random
from collections import Counter
from itertools import islice, takewhile

from overlay.sim.workload import Session
from overlay.sim.workloads.mmlu import SUBJECTS, Mmlu


def sessions(mmlu: Mmlu, count: int, seed: int = 1) -> list[Session]:
    return list(islice(mmlu.sessions(random.Random(seed), nodes=4, rate_per_s=10), count))


def popular(mmlu: Mmlu, seed: int) -> Counter[tuple[int, ...]]:
    return Counter(s.turns[0].prompt[:32] for s in sessions(mmlu, 2_000, seed))


def common(prompts: list[tuple[int, ...]]) -> int:
    """How many tokens they all begin with."""
    return len(list(takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))))


def test_57_subjects_are_alike() -> None:
    assert len(set(SUBJECTS)) == 57
    asked = popular(Mmlu(), 1)
    assert len(asked) == 57
    assert max(asked.values()) < 4 * min(asked.values())


def test_with_skew_the_seed_says_which_subjects_are_popular() -> None:
    ((favourite, times),) = popular(Mmlu(skew=1.2), 1).most_common(1)
    assert times > 400
    assert popular(Mmlu(skew=1.2), 2).most_common(1)[0][0] != favourite


def test_a_subject_has_its_own_lengths() -> None:
    one, other = (sessions(Mmlu(), 2_000, seed) for seed in (1, 2))
    by_beginning: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for session in one + other:
        prompt = session.turns[0].prompt
        by_beginning.setdefault(prompt[:32], []).append(prompt)
    assert len(by_beginning) == 57
    shared = sorted(common(prompts) for prompts in by_beginning.values())
    assert shared == sorted(subject.examples for subject in SUBJECTS.values())


def test_answers_are_short() -> None:
    assert {len(s.turns[0].answer) for s in sessions(Mmlu(), 200)} == {1, 2, 3, 4}
