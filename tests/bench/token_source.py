"""An engine that computes nothing: a token for each that is asked for, and blocks as told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from models.engine import (
    CacheChanged,
    Chunk,
    EngineStats,
    EventSink,
    Finished,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    Prompt,
    Started,
    Tokens,
)

_KEY = b"a token source.."
_CELLS = 1 << 18


class TokenSource:
    """An `Engine`; put in the place of llama.cpp by `install`."""

    def __init__(self, name: str, sink: EventSink) -> None:
        self.info = ModelInfo(name, _KEY, (), "a token source", 4096, _CELLS, 0, bytes(16))
        self._sink = sink
        asyncio.get_running_loop().call_soon(sink, EngineStats(cells_total=_CELLS))

    @classmethod
    async def start(cls, path: Path, *, name: str, sink: EventSink, **_: Any) -> TokenSource:
        return cls(name, sink)

    def caches(self, *blocks: int) -> None:
        """These blocks come to be cached."""
        self._sink(CacheChanged(blocks, ()))

    async def tokenize(self, prompt: Prompt) -> Tokens:
        text = prompt if isinstance(prompt, str) else "".join(turn.content for turn in prompt)
        return tuple(text.encode())

    def remember(self, prompt: Tokens, answer: Tokens) -> None:
        pass

    def submit(self, request: GenerationRequest) -> None:
        wanted = request.sampling.max_tokens or 16
        self._sink(Started(request.request_id, 0, 0.0))
        self._sink(Chunk(request.request_id, (32,) * wanted, " " * wanted))
        length = len(request.tokens)
        done = Finished(request.request_id, FinishReason.LENGTH, length, 0, wanted, 0.0, 0.0, 0.0)
        self._sink(done)

    def cancel(self, request_id: bytes) -> None:
        pass

    def set_hash_key(self, key: bytes) -> None:
        self._sink(CacheChanged((), (), reset=True))

    async def close(self) -> None:
        pass
