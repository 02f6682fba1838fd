"""What holds for every workload."""

from __future__ import annotations

import pickle
import random
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.errors import ConfigError
from overlay.sim.workload import Session, Workload
from overlay.sim.workloads.registry import KINDS, workload
from overlay.sim.workloads.zipf import Zipf

every_kind = pytest.mark.parametrize("kind", KINDS)


def some(made: Workload, seed: int, count: int = 12) -> list[Session]:
    return list(islice(made.sessions(random.Random(seed), nodes=3, rate_per_s=2.0), count))


def spelled(sessions: list[Session]) -> list[tuple[object, ...]]:
    return [(s.at_s, s.origin, *s.turns) for s in sessions]


@every_kind
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_the_seed_decides_everything(kind: str, seed: int) -> None:
    made = workload(kind)
    sessions = some(made, seed)
    assert spelled(sessions) == spelled(some(pickle.loads(pickle.dumps(made)), seed))
    assert spelled(sessions) != spelled(some(made, seed + 1))


@every_kind
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_sessions_come_in_order_at_nodes_that_exist(kind: str, seed: int) -> None:
    sessions = some(workload(kind), seed, 40)
    assert all(before.at_s <= after.at_s for before, after in pairwise(sessions))
    assert {session.origin for session in sessions} == {0, 1, 2}


@every_kind
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_turns_extend_each_other(kind: str, seed: int) -> None:
    for session in some(workload(kind), seed):
        assert session.turns[0].pause_s == 0
        assert all(turn.prompt and turn.answer for turn in session.turns)
        for before, after in pairwise(session.turns):
            history = before.prompt + before.answer
            assert after.prompt[: len(history)] == history
            assert len(after.prompt) > len(history)


@every_kind
def test_names_lead_back(kind: str) -> None:
    assert workload(kind).name == kind
    assert workload(workload(kind).name) == workload(kind)


def test_parameters() -> None:
    assert workload("zipf:skew=1.2,groups=200") == Zipf(groups=200, skew=1.2)
    assert workload("zipf:skew=1.2,groups=200").name == "zipf:groups=200,skew=1.2"


def test_a_path_is_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [7]}')
    (session,) = some(workload(str(path)), 1)
    assert len(session.turns[0].prompt) == 5


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(ConfigError, match=r"no workload and no file 'mlu:skew=1': .*mmlu.*zipf"):
        workload("mlu:skew=1")
