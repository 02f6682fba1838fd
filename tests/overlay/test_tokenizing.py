"""Of guests' prompts one is tokenized at a time, in fair turns, and none that was taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from models.engine import Client, Prompt, Tokens
from overlay.errors import EngineFailed, HearthError
from overlay.forwarding.effects import Tokenize
from overlay.tokenizing import Tokenizing
from tests.support.token_source import TokenSource

ANN, BEN = (b"ann", b"ann"), (b"ben", b"ben")
#: Whom Ann let in.
CROWD = [(b"ann", b"%d" % number, b"%d" % number) for number in range(20)]


class Slow(TokenSource):
    """An engine that tokenizes when the test says so."""

    def __init__(self) -> None:
        super().__init__("toy", lambda event: None)
        self.asked: asyncio.Queue[tuple[Prompt, asyncio.Future[Tokens]]] = asyncio.Queue()
        #: Whether a prompt was said to be a guest's.
        self.guests: dict[Prompt, bool] = {}

    async def tokenize(self, prompt: Prompt, *, guests: bool = False) -> Tokens:
        answer: asyncio.Future[Tokens] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((prompt, answer))
        self.guests[prompt] = guests
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

    def begin(self, prompt: str, client: Client = (), model: str = "toy") -> None:
        self.tokenizing.begin(Tokenize(prompt.encode(), model, prompt, client))

    async def begun(self) -> str:
        """The next prompt that an engine is given; it is tokenized at once."""
        assert self.engine is not None
        prompt, answer = await self.engine.next()
        answer.set_result(())
        return str(prompt)


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    scene.tokenizing.close()


async def test_guests_wait_for_each_other_and_the_owner_for_one_of_them(scene: Scene) -> None:
    assert scene.engine is not None
    for prompt, client in (("a1", ANN), ("a2", ANN), ("b1", BEN), ("own", ()), ("own 2", ())):
        scene.begin(prompt, client)
    begun = [await scene.engine.next() for _ in range(3)]
    assert [prompt for prompt, _ in begun] == ["a1", "own", "own 2"]
    assert scene.engine.guests == {"a1": True, "own": False, "own 2": False}
    assert scene.engine.asked.empty()
    begun[0][1].set_result((1, 2))
    assert await scene.told.get() == (b"a1", (1, 2))
    assert [await scene.begun() for _ in range(2)] == ["b1", "a2"]


async def test_a_crowd_that_one_guest_let_in_keeps_nobody_waiting(scene: Scene) -> None:
    """However many they are, and however many prompts each of them has."""
    for number, client in enumerate(CROWD):
        for prompt in "xyz":
            scene.begin(f"{prompt * 1000} {number}", client)
    scene.begin("b1 " * 100, BEN)
    scene.begin("b2 " * 100, BEN)
    begun = [await scene.begun() for _ in range(4)]
    assert sum(prompt[0] == "b" for prompt in begun) == 2


async def test_a_long_prompt_counts_for_more_than_a_short_one(scene: Scene) -> None:
    scene.begin("first", CROWD[0])
    for number in range(4):
        scene.begin(f"long {number}" * 1000, ANN)
        scene.begin(f"short {number}", BEN)
    begun = [(await scene.begun())[0] for _ in range(9)]
    assert begun[0] == "f"
    assert sorted(begun[1:6]) == [*"lssss"], "as long as there were short ones"


async def test_who_took_all_back_has_saved_up_no_turns(scene: Scene) -> None:
    for number in range(10):
        scene.begin(f"b{number}" * 1000, BEN)
    scene.begin("taken back", ANN)
    scene.tokenizing.cancel("toy", b"taken back")
    assert [(await scene.begun())[0] for _ in range(4)] == [*"bbbb"]
    for number in range(4):
        scene.begin(f"a{number}" * 1000, ANN)
    begun = [(await scene.begun())[0] for _ in range(4)]
    assert begun.count("b") >= 2


async def test_one_model_does_not_wait_for_another(scene: Scene) -> None:
    assert scene.engine is not None
    scene.begin("slow", ANN, "other")
    scene.begin("quick", BEN, "toy")
    assert [(await scene.engine.next())[0] for _ in range(2)] == ["slow", "quick"]


async def test_what_was_taken_back_comes_to_no_engine(scene: Scene) -> None:
    assert scene.engine is not None
    for number in range(100):
        scene.begin(f"{number}", ANN)
        if number < 99:
            scene.tokenizing.cancel("toy", b"%d" % number)
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


async def test_once_it_is_closed_nothing_is_told_and_no_engine_asked(scene: Scene) -> None:
    assert scene.engine is not None
    for prompt, client in (("a1", ANN), ("a2", ANN), ("own", ())):
        scene.begin(prompt, client)
    answers = [(await scene.engine.next())[1] for _ in range(2)]
    under_way = {*scene.tokenizing._tasks}
    scene.tokenizing.close()
    for answer in answers:
        if not answer.cancelled():
            answer.set_result(())
    await asyncio.gather(*under_way, return_exceptions=True)
    assert scene.told.empty()
    assert scene.tokenizing._tasks <= under_way, "the next one has its turn"
