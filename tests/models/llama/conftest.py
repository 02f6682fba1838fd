"""Engines to test, and ears for what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from models.engine import (
    CacheChanged,
    Chunk,
    EngineDied,
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    GenerationRequest,
    Priority,
    Prompt,
    Sampling,
    Started,
)
from models.llama.engine import LlamaEngine

GREEDY = Sampling(temperature=0, max_tokens=8)


class Answer:
    """All that an engine said about one request."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Started | Chunk | Finished | Failed] = asyncio.Queue()
        self.started: Started | None = None
        self.tokens: list[int] = []
        self.text = ""
        self.failed: Failed | None = None
        self._finished: Finished | None = None

    @property
    def finished(self) -> Finished:
        assert self._finished is not None, self.failed
        return self._finished

    async def next(self) -> Started | Chunk | Finished | Failed:
        event = await self.events.get()
        match event:
            case Started():
                self.started = event
            case Chunk(tokens=tokens, text=text):
                self.tokens += tokens
                self.text += text
            case Finished():
                self._finished = event
            case Failed():
                self.failed = event
        return event

    async def end(self) -> Answer:
        while self._finished is None and self.failed is None:
            await self.next()
        return self


class Ears:
    """A sink that sorts what it hears."""

    def __init__(self) -> None:
        self.answers: dict[bytes, Answer] = {}
        self.blocks: set[int] = set()
        self.stats = EngineStats()
        self.died: asyncio.Future[EngineDied] = asyncio.get_running_loop().create_future()
        self.idle = asyncio.Event()
        self.resets = 0

    def __call__(self, event: EngineEvent) -> None:
        match event:
            case CacheChanged(added=added, removed=removed, reset=reset):
                if reset:
                    self.resets += 1
                    self.blocks.clear()
                self.blocks = self.blocks.union(added).difference(removed)
            case EngineStats():
                self.stats = event
                if event.running == event.queued == 0:
                    self.idle.set()
                else:
                    self.idle.clear()
            case EngineDied():
                self.died.set_result(event)
            case Started() | Chunk() | Finished() | Failed():
                self.answers[event.request_id].events.put_nowait(event)


class Caller:
    """An engine and its ears."""

    def __init__(self, engine: LlamaEngine, ears: Ears) -> None:
        self.engine = engine
        self.ears = ears
        self._ids = 0

    def submit(
        self,
        tokens: tuple[int, ...],
        sampling: Sampling = GREEDY,
        *,
        priority: Priority = Priority.OWNER,
        generated: tuple[int, ...] = (),
        delivered_chars: int = 0,
    ) -> tuple[bytes, Answer]:
        self._ids += 1
        request_id = self._ids.to_bytes(4, "big")
        answer = self.ears.answers[request_id] = Answer()
        self.engine.submit(
            GenerationRequest(request_id, tokens, sampling, priority, generated, delivered_chars)
        )
        return request_id, answer

    async def ask(self, prompt: Prompt | tuple[int, ...], sampling: Sampling = GREEDY) -> Answer:
        """The whole answer to a prompt, or to tokens."""
        if isinstance(prompt, str) or not isinstance(prompt[0], int):
            prompt = await self.engine.tokenize(prompt)
        _, answer = self.submit(prompt, sampling)
        return await answer.end()


Starter = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def start(tiny_model: Path) -> AsyncIterator[Starter]:
    """Starts engines on the tiny model, or another, and closes them after the test."""
    engines: list[LlamaEngine] = []

    async def starter(path: Path = tiny_model, **options: Any) -> Caller:
        ears = Ears()
        usual: dict[str, Any] = {"name": "tiny", "hash_key": b"secret", "threads": 1}
        engine = await LlamaEngine.start(path, sink=ears, **usual | options)
        engines.append(engine)
        return Caller(engine, ears)

    yield starter
    for engine in engines:
        await engine.close()
