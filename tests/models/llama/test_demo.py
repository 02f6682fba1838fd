"""The demo model: what no tiny model can show."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from models.engine import FinishReason, Message, Sampling, Started
from models.llama.chunks import TILE
from tests.models.llama.conftest import Starter

pytestmark = [pytest.mark.demo, pytest.mark.timeout(300)]

#: Under it, all QUESTIONS end within the same tile of 64 tokens, and below the 512 cells from which
#: llama.cpp splits attention for a single token: so hot and cold round alike, to the last bit.
SYSTEM = Message(
    "system",
    "You are the friendly guide of a small museum by the sea. "
    + " ".join(f"Room {n} shows {what}." for n, what in enumerate(["ships", "maps", "whales"] * 12))
    + " Be brief, and speak of nothing but the museum and its rooms.",
)
QUESTIONS = ("What can I see in room 2?", "Tell me about whales.", "Where are the old maps?")
ANSWER = Sampling(temperature=0, max_tokens=24)


def prompt(question: str) -> tuple[Message, ...]:
    return (SYSTEM, Message("user", question))


async def test_hot_and_cold_give_the_same_greedy_answer(start: Starter, demo_model: Path) -> None:
    cold: dict[str, str] = {}
    hot: dict[str, list[str]] = {}
    for question in QUESTIONS[:2]:
        caller = await start(demo_model)
        cold[question] = (await caller.ask(prompt(question), ANSWER)).text
        for other in QUESTIONS:
            answer = await caller.ask(prompt(other), ANSWER)
            tokens = answer.finished.prompt_tokens
            assert tokens // TILE == 4, "all prompts must end in the same tile"
            assert answer.finished.cached_tokens > tokens - 32
            hot.setdefault(other, []).append(answer.text)
        await caller.engine.close()
    for question, text in cold.items():
        assert hot[question] == [text, text]
    assert hot[QUESTIONS[2]][0] == hot[QUESTIONS[2]][1]


async def test_a_common_prompt_is_computed_once(start: Starter, demo_model: Path) -> None:
    caller = await start(demo_model)
    together = await asyncio.gather(*(caller.ask(prompt(q), ANSWER) for q in QUESTIONS))
    computed = sum(a.finished.prompt_tokens - a.finished.cached_tokens for a in together)
    assert computed < 1.5 * together[0].finished.prompt_tokens
    assert all(answer.text for answer in together)


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
