"""The demo model: what no tiny model can show."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from models.engine import FinishReason, Message, Sampling, Started
from tests.models.llama.conftest import Caller, Starter

pytestmark = pytest.mark.demo

SYSTEM = Message(
    "system",
    "You are the friendly guide of a small museum by the sea. "
    + " ".join(
        f"Room {number} shows {what}."
        for number, what in enumerate(["ships", "maps", "whales"] * 12)
    ),
)
QUESTIONS = ("What can I see in room 2?", "Tell me about whales.", "Where are the old maps?")
ANSWER = Sampling(temperature=0, max_tokens=24)


def prompt(question: str) -> tuple[Message, ...]:
    return (SYSTEM, Message("user", question))


async def answers(caller: Caller, order: list[int]) -> dict[int, str]:
    return {i: (await caller.ask(prompt(QUESTIONS[i]), ANSWER)).text for i in order}


async def test_hot_and_cold_give_the_same_greedy_answer(start: Starter, demo_model: Path) -> None:
    texts = []
    for first in range(len(QUESTIONS)):
        caller = await start(demo_model)
        order = [first, *(i for i in range(len(QUESTIONS)) if i != first)]
        texts.append(await answers(caller, order))
        again = await caller.ask(prompt(QUESTIONS[first]), ANSWER)
        assert again.text == texts[-1][first]
        assert again.finished.cached_tokens == again.finished.prompt_tokens - 1
        await caller.engine.close()
    assert texts[0] == texts[1] == texts[2]


async def test_together_as_alone(start: Starter, demo_model: Path) -> None:
    caller = await start(demo_model)
    together = await asyncio.gather(*(caller.ask(prompt(q), ANSWER) for q in QUESTIONS))
    computed = sum(a.finished.prompt_tokens - a.finished.cached_tokens for a in together)
    assert computed < 1.5 * together[0].finished.prompt_tokens
    alone = await answers(await start(demo_model), [0, 1, 2])
    assert [answer.text for answer in together] == [alone[i] for i in range(len(QUESTIONS))]


async def test_cancelling_in_mid_prefill(start: Starter, demo_model: Path) -> None:
    caller = await start(demo_model)
    tokens = await caller.engine.tokenize(" ".join(str(number) for number in range(1500)))
    request_id, answer = caller.submit(tokens, ANSWER)
    assert isinstance(await answer.next(), Started)
    caller.engine.cancel(request_id)
    await answer.end()
    assert answer.finished.reason is FinishReason.CANCELLED
    assert answer.tokens == []
    await caller.ears.idle.wait()
    assert caller.ears.stats.cells_used < len(tokens)


async def test_its_template_and_end_of_turn(start: Starter, demo_model: Path) -> None:
    caller = await start(demo_model)
    answer = await caller.ask(
        (Message("user", "What is the capital of France? One word."),),
        Sampling(temperature=0, max_tokens=60),
    )
    assert "Paris" in answer.text
    assert answer.finished.reason is FinishReason.STOP
    assert "<|im_end|>" not in answer.text
