"""``hearth up`` with an engine that says ``1 2 3…``: as fast as the mesh lets it, and light.

    python -m tests.chaos.victim_node up --home DIR --model FILE.gguf …

All else is the node that people run.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cli.main import hearth
from models.engine import (
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

#: As many as a request may ask for here.
_CONTEXT_LENGTH = 4096


class Counting:
    """An `Engine` that counts from one in place of an answer."""

    def __init__(self, name: str, sink: EventSink) -> None:
        self.info = ModelInfo(name, bytes(16), (), "counts", _CONTEXT_LENGTH, _CONTEXT_LENGTH, 0)
        self._sink = sink
        sink(EngineStats(cells_total=_CONTEXT_LENGTH, prefill_rate=1e4, decode_rate=1e3))

    @classmethod
    async def start(cls, _: Path, *, name: str, sink: EventSink, **options: Any) -> Counting:
        return cls(name, sink)

    async def tokenize(self, prompt: Prompt) -> Tokens:
        text = prompt if isinstance(prompt, str) else "".join(turn.content for turn in prompt)
        return tuple(text.encode()[:_CONTEXT_LENGTH])

    def submit(self, request: GenerationRequest) -> None:
        asyncio.get_running_loop().call_soon(self._answer, request)

    def _answer(self, request: GenerationRequest) -> None:
        count = max(0, min(request.sampling.max_tokens or 16, _CONTEXT_LENGTH))
        self._sink(Started(request.request_id, 0, 0.0))
        for number in range(1, count + 1):
            self._sink(Chunk(request.request_id, (number,), f"{number} "))
        tokens = len(request.tokens)
        self._sink(
            Finished(request.request_id, FinishReason.LENGTH, tokens, 0, count, 0.0, 0.0, 0.0)
        )

    def remember(self, prompt: Tokens, answer: Tokens) -> None:
        pass

    def cancel(self, request_id: bytes) -> None:
        pass

    def set_hash_key(self, key: bytes) -> None:
        pass

    async def close(self) -> None:
        pass


if __name__ == "__main__":
    with patch("overlay.engines.LlamaEngine", Counting):
        hearth(sys.argv[1:])
