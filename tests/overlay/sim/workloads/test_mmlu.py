from __future__ import annotations

import random
from collections import Counter
from itertools import islice

from overlay.sim.workload import Session
from overlay.sim.workloads.mmlu import SUBJECTS, Mmlu


def sessions(mmlu: Mmlu, count: int, seed: int = 1) -> list[Session]:
    return list(islice(mmlu.sessions(random.Random(seed), nodes=4, rate_per_s=10), count))


def popular(mmlu: Mmlu, seed: int) -> Counter[tuple[int, ...]]:
    return Counter(s.turns[0].prompt[:32] for s in sessions(mmlu, 2_000, seed))


def test_57_subjects_are_alike() -> None:
    assert len(set(SUBJECTS)) == 57
    asked = popular(Mmlu(), 1)
    assert len(asked) == 57
    assert max(asked.values()) < 4 * min(asked.values())


def test_with_skew_the_seed_says_which_subjects_are_popular() -> None:
    ((favourite, times),) = popular(Mmlu(skew=1.2), 1).most_common(1)
    assert times > 400
    assert popular(Mmlu(skew=1.2), 2).most_common(1)[0][0] != favourite


def test_a_subjects_examples_are_always_the_same() -> None:
    def examples(seed: int) -> set[tuple[int, ...]]:
        return {s.turns[0].prompt[:500] for s in sessions(Mmlu(), 1_000, seed)}

    assert examples(1) == examples(2)
    assert len(examples(1)) == 57


def test_answers_are_short() -> None:
    assert {len(s.turns[0].answer) for s in sessions(Mmlu(), 200)} == {1, 2, 3, 4}
