from __future__ import annotations

import random
from itertools import islice, pairwise

import pytest

from overlay.sim.workload import Session
from overlay.sim.workloads.agents import Agents


def sessions(agents: Agents, count: int = 200) -> list[Session]:
    return list(islice(agents.sessions(random.Random(1), nodes=3, rate_per_s=1), count))


def test_agents_of_a_kind_share_the_preamble() -> None:
    firsts = [session.turns[0].prompt for session in sessions(Agents(kinds=3))]
    assert len({prompt[:2000] for prompt in firsts}) == 3
    assert len({prompt[2000:2050] for prompt in firsts}) == len(firsts)
    assert {len(prompt) - 2000 for prompt in firsts} <= set(range(50, 201))


def test_each_step_adds_a_result_soon_after_the_answer() -> None:
    loops = sessions(Agents())
    assert {len(loop.turns) for loop in loops} == set(range(5, 26))
    for loop in loops[:30]:
        for before, step in pairwise(loop.turns):
            assert 50 <= len(step.prompt) - len(before.prompt) - len(before.answer) <= 400
            assert 20 <= len(step.answer) <= 80
    pauses = [step.pause_s for loop in loops for step in loop.turns[1:]]
    assert sum(pauses) / len(pauses) == pytest.approx(0.5, rel=0.1)
