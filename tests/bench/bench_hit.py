"""What stands around the decode of a hot prompt's last tokens: engine, node, rival."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.bench.bench_prefixes import PREFIX_TOKENS
from tests.bench.contenders import Answer, Child, Contender, HearthNode
from tests.bench.setting import Setting, in_turn
from tests.bench.workload import Prompt
from tests.e2e.nodes import RunningNode

ROUNDS: Final = 20
QUICK_ROUNDS: Final = 4
ANSWER_TOKENS: Final = 2
CELLS: Final = 4096
#: Before each: in life, too, a machine has been idle for a moment.
PAUSE_S: Final = 0.3

BARE: Final = "llama_decode and nothing else"
#: Its attention then computes masked cells too, but short batches faster: good for one at a time.
WITHOUT_FLASH: Final = "llama-server --flash-attn off"


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt of which all but the question's 20 tokens is cached."""

    who: str
    ttft_ms: float
    cached: int


async def measure(setting: Setting, done: Callable[[], None]) -> list[Sample]:
    """``done`` is called for each of `rounds`."""
    vocabulary, count = setting.vocabulary, rounds(quick=setting.quick)
    [head] = vocabulary.prefixes(1, PREFIX_TOKENS)
    prompts = [vocabulary.prompt(head + question) for question in vocabulary.questions(count)]
    server = ("--parallel", 1, "--ctx-size", CELLS)
    bare = await Child.start(
        "tests.bench.bare", setting.model, "--threads", setting.threads, "--context", CELLS
    )
    try:
        async with (
            _node(setting) as node,
            setting.engines({"cells": CELLS}, server) as engines,
            AsyncExitStack() as more,
        ):
            if setting.server is not None:
                off = (*server, "--flash-attn", "off")
                engines.append(await setting.llama_server(*off, name=WITHOUT_FLASH))
                more.push_async_callback(engines[-1].close)

            async def ask_bare(prompt: Prompt) -> Answer:
                told = await bare.ask(prompt=prompt.tokens, cached=PREFIX_TOKENS)
                return Answer((), len(prompt.tokens), PREFIX_TOKENS, told["ttft_ms"], 0)

            def asking(engine: Contender) -> Callable[[Prompt], Awaitable[Answer]]:
                return lambda prompt: engine.ask(prompt.tokens, ANSWER_TOKENS)

            ways: list[tuple[str, Callable[[Prompt], Awaitable[Answer]]]] = [
                (BARE, ask_bare),
                (node.name, lambda prompt: node.ask_text(prompt.text, ANSWER_TOKENS)),
                *((engine.name, asking(engine)) for engine in engines),
            ]
            samples = []
            for number, prompt in enumerate(prompts):
                for name, ask in in_turn(ways, number):
                    await asyncio.sleep(PAUSE_S)
                    answer = await ask(prompt)
                    if number > 0:
                        assert answer.cached_tokens >= PREFIX_TOKENS, f"{name}: {answer}"
                        samples.append(Sample(name, answer.ttft_ms, answer.cached_tokens))
                done()
            return samples
    finally:
        await bare.close()


def rounds(*, quick: bool) -> int:
    """One that warms up, and the others."""
    return 1 + (QUICK_ROUNDS if quick else ROUNDS)


@asynccontextmanager
async def _node(setting: Setting) -> AsyncIterator[HearthNode]:
    running = RunningNode(setting.folder / "node", "bench", ("--model", str(setting.model)))
    try:
        await running.start()
        port = int(running.api.rpartition(":")[2])
        yield HearthNode(port, setting.vocabulary.ends)
    finally:
        if running.process is not None:
            await running.stop()
