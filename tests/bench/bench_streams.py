"""How many tokens per second come in all when several answers stream at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.bench.contenders import Child, Contender
from tests.bench.setting import Setting, in_turn
from tests.bench.workload import Prompt

STREAMS: Final = (1, 4, 8)
CELLS: Final = 8192
#: (rounds, tokens of each answer)
FULL: Final = (5, 128)
QUICK: Final = (2, 48)
#: Before each: in life, too, a machine has been idle for a moment.
PAUSE_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Sample:
    """One round: from the first request until the last answer's end, prompts included."""

    engine: str
    streams: int
    tokens_per_s: float


async def measure(setting: Setting, done: Callable[[], None]) -> list[Sample]:
    """``done`` is called for each of `rounds`."""
    count = (QUICK if setting.quick else FULL)[1]
    openings = iter(setting.vocabulary.openings(sum(STREAMS) * rounds(quick=setting.quick)))
    samples: list[Sample] = []
    # Tried with a unified cache as well: no faster.
    server = ("--parallel", max(STREAMS), "--ctx-size", CELLS, "--no-kv-unified")
    rival = await Child.start(
        "tests.bench.rival", setting.model, "--threads", setting.threads, "--context", 1024
    )
    try:
        async with setting.engines({"cells": CELLS}, server) as engines:
            for number in range(rounds(quick=setting.quick)):
                for streams in STREAMS:
                    asked = [next(openings) for _ in range(streams)]
                    found = [
                        await _round(engine, asked, count) for engine in in_turn(engines, number)
                    ]
                    if streams == 1:
                        found.append(await _alone(rival, asked[0], count))
                    if number > 0:  # the first finds files unread and speeds unmeasured
                        samples += found
                done()
    finally:
        await rival.close()
    return samples


def rounds(*, quick: bool) -> int:
    """One that is not counted, and the others."""
    return 1 + (QUICK if quick else FULL)[0]


async def _round(engine: Contender, asked: list[Prompt], count: int) -> Sample:
    await asyncio.sleep(PAUSE_S)
    begun_s = time.perf_counter()
    await asyncio.gather(*(engine.ask(prompt.tokens, count) for prompt in asked))
    seconds = time.perf_counter() - begun_s
    return Sample(engine.name, len(asked), len(asked) * count / seconds)


async def _alone(rival: Child, prompt: Prompt, count: int) -> Sample:
    await asyncio.sleep(PAUSE_S)
    told = await rival.ask(prompt=prompt.tokens, max_tokens=count)
    return Sample("llama-cpp-python", 1, told["tokens"] / told["total_ms"] * 1e3)
