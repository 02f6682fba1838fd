"""The engines that are compared, behind one way to ask: token ids in, token ids and times out.

Each answer is greedy and exactly as long as asked, so that all do the same work. Time to first
token runs from asking until the first token is in this process; what lies between is said at each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from models.engine import (
    CacheChanged,
    Chunk,
    EngineDied,
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    GenerationRequest,
    Sampling,
    Started,
    Tokens,
)
from models.llama.engine import LlamaEngine
from tests.bench.llama_server import LlamaServer
from tests.bench.sse import Connection

#: As good as forbidden; an infinity would not survive every way to the engine.
NEVER: Final = -1e9


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request brought, and when."""

    tokens: Tokens
    prompt_tokens: int
    cached_tokens: int
    ttft_ms: float
    total_ms: float


class Contender(Protocol):
    """An engine that answers prompts of token ids; several at once, if it can."""

    @property
    def name(self) -> str: ...

    async def ask(self, prompt: Sequence[int], count: int) -> Answer:
        """An answer of exactly ``count`` tokens."""

    async def close(self) -> None: ...


class Hearth:
    """`LlamaEngine`: a pipe to its process and back, the scheduler, the radix tree."""

    name = "Hearth"

    def __init__(self, never: Tokens) -> None:
        """Use `start`."""
        self._bias = tuple((token, NEVER) for token in never)
        self._engine: LlamaEngine | None = None
        self._asked = 0
        self._open: dict[bytes, _Pending] = {}
        self._stats = EngineStats()
        self._told = asyncio.Event()

    @classmethod
    async def start(cls, model: Path, never: Tokens, **options: Any) -> Hearth:
        """``options`` as those of `LlamaEngine.start`."""
        self = cls(never)
        self._engine = await LlamaEngine.start(
            model, name="bench", sink=self._sink, hash_key=b"", **options
        )
        return self

    @property
    def engine(self) -> LlamaEngine:
        assert self._engine is not None, "not started"
        return self._engine

    async def ask(self, prompt: Sequence[int], count: int) -> Answer:
        self._asked += 1
        request_id = self._asked.to_bytes(8, "big")
        sampling = Sampling(max_tokens=count, temperature=0, logit_bias=self._bias)
        pending = _Pending(asyncio.get_running_loop().create_future())
        self._open[request_id] = pending
        asked_s = time.perf_counter()
        self.engine.submit(GenerationRequest(request_id, tuple(prompt), sampling))
        finished = await pending.finished
        total_ms = (time.perf_counter() - asked_s) * 1e3
        assert len(pending.tokens) == count, f"{len(pending.tokens)} tokens instead of {count}"
        return Answer(
            tuple(pending.tokens),
            finished.prompt_tokens,
            finished.cached_tokens,
            (pending.first_s - asked_s) * 1e3,
            total_ms,
        )

    async def idle(self) -> EngineStats:
        """The engine's figures once it has nothing more to do."""
        while self._stats.requests < self._asked or self._stats.running or self._stats.queued:
            self._told.clear()
            await self._told.wait()
        return self._stats

    async def close(self) -> None:
        await self.engine.close()

    def _sink(self, event: EngineEvent) -> None:
        match event:
            case Chunk(request_id=request_id, tokens=tokens):
                pending = self._open[request_id]
                if not pending.tokens:
                    pending.first_s = time.perf_counter()
                pending.tokens += tokens
            case Finished(request_id=request_id):
                self._open.pop(request_id).finished.set_result(event)
            case Failed(request_id=request_id, message=message):
                self._open.pop(request_id).finished.set_exception(RuntimeError(message))
            case EngineStats():
                self._stats = event
                self._told.set()
            case Started() | CacheChanged() | EngineDied():
                pass


class _Pending:
    """An answer on its way."""

    def __init__(self, finished: asyncio.Future[Finished]) -> None:
        self.finished = finished
        self.tokens: list[int] = []
        self.first_s = 0.0


class HearthNode:
    """A whole node over HTTP: what the engine does, and API, routing and tokenizing besides.

    Its API takes text, so that it is asked with text that gives the same token ids.
    """

    name = "Hearth node"

    def __init__(self, port: int, never: Tokens) -> None:
        self._port = port
        self._bias = {str(token): -100 for token in never}

    async def ask_text(self, prompt: str, count: int) -> Answer:
        body = {
            "prompt": prompt,
            "max_tokens": count,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logit_bias": self._bias,
            "hearth": {"route": "local"},
        }
        connection = await Connection.open(self._port)
        asked_s = time.perf_counter()
        first_s: float | None = None
        usage: dict[str, Any] = {}
        async for event in connection.post("/v1/completions", body):
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            if first_s is None and any(choice.get("text") for choice in event["choices"]):
                first_s = time.perf_counter()
            usage = event.get("usage") or usage
        ended_s = time.perf_counter()
        connection.close()
        return Answer(
            (),
            usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
            ((first_s or ended_s) - asked_s) * 1e3,
            (ended_s - asked_s) * 1e3,
        )


class LlamaServerClient:
    """llama-server over HTTP with token ids; each connection is open before the clock starts."""

    name = "llama-server"

    def __init__(self, server: LlamaServer, name: str = name) -> None:
        self._server = server
        self.name = name

    async def ask(self, prompt: Sequence[int], count: int) -> Answer:
        body = {
            "prompt": list(prompt),
            "n_predict": count,
            "temperature": 0,
            "samplers": ["temperature"],  # greedy, without the samplers that sort the vocabulary
            "ignore_eos": True,
            "cache_prompt": True,
            "stream": True,
            "return_tokens": True,
        }
        connection = await Connection.open(self._server.port)
        tokens: list[int] = []
        asked_s = time.perf_counter()
        first_s: float | None = None
        last: dict[str, Any] = {}
        async for event in connection.post("/completion", body):
            if first_s is None and event.get("tokens"):
                first_s = time.perf_counter()
            tokens += event.get("tokens") or ()
            last = event
        ended_s = time.perf_counter()
        connection.close()
        assert first_s is not None, f"llama-server told no token: {last}"
        assert len(tokens) == count, f"{len(tokens)} tokens instead of {count}"
        return Answer(
            tuple(tokens),
            len(prompt),
            last["timings"]["cache_n"],
            (first_s - asked_s) * 1e3,
            (ended_s - asked_s) * 1e3,
        )

    async def close(self) -> None:
        await self._server.close()


class Child:
    """A module of the benchmarks in a process of its own, asked by JSON lines (see `rival`)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, module: str, *arguments: object) -> Child:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *map(str, arguments)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "NO_COLOR": "1"},
        )
        self = cls(process)
        assert await self._line() == b"ready\n", f"{module} did not start"
        return self

    async def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        told = json.loads(await self._line())
        assert "error" not in told, told
        return dict(told)

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        return await self._process.stdout.readline()
