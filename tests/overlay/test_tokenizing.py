"""Of each member's prompts one is tokenized at a time, and none that was taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from models.engine import Prompt, Tokens
from overlay.errors import EngineFailed, HearthError
from overlay.forwarding.effects import Tokenize
from overlay.identity.peer_id import PeerId
from overlay.tokenizing import Tokenizing
from tests.support.token_source import TokenSource

ANN, BEN = (PeerId(bytes([number]) * 32) for number in (1, 2))


class Slow(TokenSource):
    """An engine that tokenizes when the test says so."""

    def __init__(self) -> None:
        super().__init__("toy", lambda event: None)
        self.asked: asyncio.Queue[tuple[Prompt, asyncio.Future[Tokens]]] = asyncio.Queue()

    async def tokenize(self, prompt: Prompt) -> Tokens:
        answer: asyncio.Future[Tokens] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((prompt, answer))
        return await answer

    async def next(self) -> tuple[Prompt, asyncio.Future[Tokens]]:
        return await self.asked.get()


class Scene:
    def __init__(self) -> None:
        self.engine: Slow | None = Slow()
        self.told: asyncio.Queue[tuple[bytes, Tokens | HearthError]] = asyncio.Queue()
        self.tokenizing = Tokenizing(
            lambda model: self.engine, lambda *became: self.told.put_nowait(became)
        )

    def begin(self, prompt: str, guest: PeerId | None) -> None:
        self.tokenizing.begin(Tokenize(prompt.encode(), "toy", prompt, guest))


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    scene.tokenizing.close()


async def test_a_member_waits_for_itself_and_for_nobody_else(scene: Scene) -> None:
    assert scene.engine is not None
    for prompt, guest in (("a1", ANN), ("a2", ANN), ("b1", BEN), ("own", None), ("own 2", None)):
        scene.begin(prompt, guest)
    begun = [await scene.engine.next() for _ in range(4)]
    assert [prompt for prompt, _ in begun] == ["a1", "b1", "own", "own 2"]
    assert scene.engine.asked.empty()
    begun[0][1].set_result((1, 2))
    assert await scene.told.get() == (b"a1", (1, 2))
    asked, _ = await scene.engine.next()
    assert asked == "a2"


async def test_what_was_taken_back_comes_to_no_engine(scene: Scene) -> None:
    assert scene.engine is not None
    for number in range(100):
        scene.begin(f"{number}", ANN)
        if number < 99:
            scene.tokenizing.cancel(b"%d" % number)
    prompt, answer = await scene.engine.next()
    assert prompt == "0"
    answer.set_result(())
    prompt, answer = await scene.engine.next()
    assert prompt == "99"
    answer.set_result(())
    assert [(await scene.told.get())[0] for _ in range(2)] == [b"0", b"99"]
    scene.begin("later", ANN)
    assert (await scene.engine.next())[0] == "later"


@pytest.mark.parametrize("failure", [EngineFailed("it died"), ValueError("it died of a bug")])
async def test_a_failure_is_told_and_the_next_one_goes_on(scene: Scene, failure: Exception) -> None:
    assert scene.engine is not None
    for prompt in ("first", "second", "third"):
        scene.begin(prompt, ANN)
    (_, answer), engine, scene.engine = await scene.engine.next(), scene.engine, None
    answer.set_exception(failure)
    for request_id, words in ((b"first", "died"), (b"second", "gone"), (b"third", "gone")):
        told = await scene.told.get()
        assert told[0] == request_id
        assert words in str(told[1])
    assert engine.asked.empty()
