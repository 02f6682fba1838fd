from __future__ import annotations

import random
from itertools import islice

import pytest

from overlay.sim.text import text
from overlay.sim.workload import Session
from overlay.sim.workloads.chat import Chat
from overlay.sim.workloads.parameters import Span


def sessions(chat: Chat, count: int = 300) -> list[Session]:
    return list(islice(chat.sessions(random.Random(1), nodes=3, rate_per_s=1), count))


def test_everybody_shares_one_system_prompt_and_nothing_else() -> None:
    firsts = [session.turns[0].prompt for session in sessions(Chat())]
    assert len({prompt[:400] for prompt in firsts}) == 1
    assert len({prompt[400:420] for prompt in firsts}) == len(firsts)


def test_lengths_and_pauses_are_as_asked() -> None:
    talks = sessions(Chat())
    assert {len(talk.turns) for talk in talks} == set(range(2, 13))
    for talk in talks[:50]:
        said = [400, *(len(turn.prompt) + len(turn.answer) for turn in talk.turns)]
        for before, turn in zip(said, talk.turns, strict=False):
            assert 20 <= len(turn.prompt) - before <= 80
            assert 30 <= len(turn.answer) <= 150
    pauses = [turn.pause_s for talk in talks for turn in talk.turns[1:]]
    assert sum(pauses) / len(pauses) == pytest.approx(20, rel=0.1)


def test_a_user_keeps_to_one_node_and_one_system_prompt() -> None:
    # As many system prompts as fit: what a node's users have tells them apart.
    chat = Chat(users=2, systems=1000, system=Span(40, 40), turns=Span(1, 1))
    at_node: dict[int, set[tuple[int, ...]]] = {}
    for session in sessions(chat):
        at_node.setdefault(session.origin, set()).add(session.turns[0].prompt[:40])
    assert {node: len(prompts) for node, prompts in at_node.items()} == {0: 2, 1: 2, 2: 2}
    assert not set.intersection(*at_node.values())


def test_system_prompts_of_different_lengths() -> None:
    chat = Chat(systems=30, system=Span(100, 900), said=Span(1, 1), turns=Span(1, 1))
    lengths = {len(session.turns[0].prompt) - 1 for session in sessions(chat)}
    assert 15 < len(lengths) <= 30
    assert 100 <= min(lengths) <= max(lengths) <= 900


def test_without_a_system_prompt_nothing_is_shared() -> None:
    chat = Chat(system=Span(0, 0))
    firsts = [session.turns[0].prompt for session in sessions(chat)]
    assert len({prompt[:20] for prompt in firsts}) == len(firsts)
    assert text(0, 0) == ()
