"""Whose time a step is: llama.cpp's, or Python's around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

from tests.bench import timed_worker
from tests.bench.setting import Setting

STREAMS: Final = 8
CELLS: Final = 8192
ANSWER_TOKENS: Final = 128
QUICK_ANSWER_TOKENS: Final = 48


@dataclass(frozen=True, slots=True)
class Step:
    """Milliseconds of one step with a token for each of `STREAMS` answers."""

    whole_ms: float
    decode_ms: float
    #: In llama.cpp's other functions: samplers, sequences.
    other_ms: float

    @property
    def python_ms(self) -> float:
        """From one decode to the next, without what llama.cpp took of it."""
        return self.whole_ms - self.decode_ms - self.other_ms


async def measure(setting: Setting) -> list[Step]:
    """The engine's process itself is timed; it packs and writes its events as always."""
    count = QUICK_ANSWER_TOKENS if setting.quick else ANSWER_TOKENS
    report = setting.folder / "steps.json"
    with _clocked(report):
        hearth = await setting.hearth(cells=CELLS)
    prompts = setting.vocabulary.openings(STREAMS)
    await asyncio.gather(*(hearth.ask(prompt.tokens, count) for prompt in prompts))
    await hearth.close()
    rows = json.loads(report.read_text())
    return [
        Step(whole_s * 1e3, decode_s * 1e3, other_s * 1e3)
        for tokens, whole_s, decode_s, other_s in rows
        if tokens == STREAMS
    ]


@contextmanager
def _clocked(report: Path) -> Iterator[None]:
    """Engines that are started meanwhile run `timed_worker` in the worker's place."""
    start = asyncio.create_subprocess_exec

    async def start_clocked(*command: str, env: dict[str, str], **options: Any) -> Any:
        command = tuple(
            timed_worker.__name__ if word == "models.llama.worker" else word for word in command
        )
        return await start(*command, env=env | {timed_worker.VARIABLE: str(report)}, **options)

    with mock.patch.object(asyncio, "create_subprocess_exec", start_clocked):
        yield
