"""Several answers side by side: interleaved, numbered, and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from models.engine import Sampling
from overlay.errors import EngineBusy
from overlay.http.backend import AnswerEvent, Ask, Text
from overlay.http.choices import SEEDS, ask_all
from tests.overlay.http.scripted import ANSWERED, ScriptedBackend


class Backend(ScriptedBackend):
    """Answers the nth ask when ``turns[n]`` is set; counts those that are open."""

    def __init__(self, count: int, *, fails: int = -1) -> None:
        super().__init__()
        self.turns = [asyncio.Event() for _ in range(count)]
        self.fails = fails
        self.open = 0

    async def ask(self, ask: Ask) -> AsyncGenerator[AnswerEvent, None]:
        number = len(self.asks)
        self.asks.append(ask)
        self.open += 1
        try:
            yield Text(f"{number} begins")
            await self.turns[number].wait()
            if number == self.fails:
                raise EngineBusy("no room")
            yield ANSWERED
        finally:
            self.open -= 1


ASK = Ask(None, "hi", Sampling(seed=SEEDS - 1))


async def test_answers_are_interleaved_and_have_seeds_of_their_own() -> None:
    backend = Backend(3)
    heard = []
    async with aclosing(ask_all(backend, ASK, 3)) as events:
        async for index, event in events:
            heard.append((index, event))
            if len(heard) == 3:
                assert heard == [(n, Text(f"{n} begins")) for n in range(3)]
                backend.turns[2].set()
            elif len(heard) == 4:
                assert heard[-1] == (2, ANSWERED)
                backend.turns[0].set()
                backend.turns[1].set()
    assert len(heard) == 6
    assert [ask.sampling.seed for ask in backend.asks] == [SEEDS - 1, 0, 1]
    assert backend.open == 0


async def test_without_a_seed_each_draws_its_own() -> None:
    backend = Backend(2)
    for turn in backend.turns:
        turn.set()
    async with aclosing(ask_all(backend, Ask(None, "hi", Sampling()), 2)) as events:
        assert len([event async for event in events]) == 4
    assert [ask.sampling.seed for ask in backend.asks] == [None, None]


async def test_one_that_fails_ends_all() -> None:
    backend = Backend(3, fails=1)
    async with aclosing(ask_all(backend, ASK, 3)) as events:
        for _ in range(3):
            await anext(events)
        backend.turns[1].set()
        with pytest.raises(EngineBusy):
            await anext(events)
    assert backend.open == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_closing_closes_all(count: int) -> None:
    backend = Backend(count)
    events = ask_all(backend, ASK, count)
    await anext(events)
    await events.aclose()
    assert backend.open == 0
