"""An engine that computes nothing: it counts, a token for each that is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
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
#: As many as a request may ask for here.
_CONTEXT_LENGTH = 4096
_CELLS = 1 << 18


class TokenSource:
    """An `Engine` in the place of llama.cpp: as fast as the mesh lets it, and light."""

    def __init__(self, name: str, sink: EventSink) -> None:
        what = "a token source"
        self.info = ModelInfo(name, _KEY, (), what, _CONTEXT_LENGTH, _CELLS, 0, bytes(16))
        self._sink = sink
        #: Blocks that can be had elsewhere, as it was told.
        self.copies: dict[int, int] = {}
        stats = EngineStats(cells_total=_CELLS, prefill_rate=1e4, decode_rate=1e3)
        asyncio.get_running_loop().call_soon(sink, stats)

    @classmethod
    async def start(cls, path: Path, *, name: str, sink: EventSink, **_: Any) -> TokenSource:
        return cls(name, sink)

    def caches(self, *blocks: int) -> None:
        """These blocks come to be cached."""
        self._sink(CacheChanged(blocks, ()))

    async def tokenize(self, prompt: Prompt, *, guests: bool = False) -> Tokens:
        text = prompt if isinstance(prompt, str) else "".join(turn.content for turn in prompt)
        return tuple(text.encode()[:_CONTEXT_LENGTH])

    def submit(self, request: GenerationRequest) -> None:
        asyncio.get_running_loop().call_soon(self._answer, request)

    def _answer(self, request: GenerationRequest) -> None:
        count = max(0, min(request.sampling.max_tokens or 16, _CONTEXT_LENGTH))
        self._sink(Started(request.request_id, 0, 0.0))
        for number in range(1, count + 1):
            self._sink(Chunk(request.request_id, (number,), f"{number} "))
        length = len(request.tokens)
        done = Finished(request.request_id, FinishReason.LENGTH, length, 0, count, 0.0, 0.0, 0.0)
        self._sink(done)

    def remember(self, prompt: Tokens, answer: Tokens) -> None:
        pass

    def cancel(self, request_id: bytes) -> None:
        pass

    def set_hash_key(self, key: bytes) -> None:
        self._sink(CacheChanged((), (), reset=True))

    def copies_changed(self, changed: Mapping[int, int]) -> None:
        self.copies |= changed

    async def close(self) -> None:
        pass
