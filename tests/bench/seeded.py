"""How often a seeded or greedy answer is the same text again: ``python -m tests.bench.seeded``.

40 questions under one system prompt, to the demo model, each answered in several circumstances
and compared with its answer alone and cold. docs/explanation/seeds.md tells what comes out.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from models.engine import Message, Sampling, Tokens
from models.llama.engine import LlamaEngine
from tests.bench import models
from tests.models.llama.conftest import Caller, Ears

SYSTEM: Final = Message("system", "You are a helpful guide to a small town by the sea. Be brief.")
THINGS: Final = (
    *("the harbour", "the old mill", "the lighthouse", "the market", "the school", "the river"),
    *("the library", "the beach", "the bakery", "the station"),
)
QUESTIONS: Final = tuple(
    ask.format(thing)
    for ask in (
        "What can I see at {}?",
        "Tell me a story about {}.",
        "Who built {}, and when?",
        "Write a short poem about {}.",
    )
    for thing in THINGS
)
TOKENS: Final = 32
#: How many of an answer's tokens another engine computed, where it is resumed.
RESUMED: Final = 12
SAMPLINGS: Final = {
    "temperature 0": Sampling(temperature=0, max_tokens=TOKENS),
    "temperature 0.8, seeded": Sampling(max_tokens=TOKENS),
    "temperature 0.8, seeded, JSON": Sampling(
        max_tokens=TOKENS,
        json_schema='{"type":"object","properties":{"place":{"type":"string"},'
        '"advice":{"type":"string"}},"required":["place","advice"]}',
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """How many answers were equal, and how many tokens the others had in common (median)."""

    circumstance: str
    equal: int
    in_common: float | None


class Trial:
    """One sampling, in all circumstances."""

    def __init__(self, path: Path, sampling: Sampling, cells: int) -> None:
        self._path = path
        self._sampling = sampling
        self._cells = cells

    async def rows(self) -> list[Row]:
        engine = await self._start()
        prompts = [
            await engine.engine.tokenize((SYSTEM, Message("user", question)))
            for question in QUESTIONS
        ]
        reference = [await self._answer(engine, n, prompt) for n, prompt in enumerate(prompts)]
        rows = []

        def compare(circumstance: str, answers: Sequence[Tokens]) -> None:
            parted = [_in_common(a, b) for a, b in zip(answers, reference, strict=True) if a != b]
            equal = len(answers) - len(parted)
            rows.append(Row(circumstance, equal, median(parted) if parted else None))

        hot = [await self._answer(engine, n, prompt) for n, prompt in enumerate(prompts)]
        compare("alone, hot", hot)
        compare("8 at a time, hot", await self._together(engine, prompts))
        await engine.engine.close()
        engine = await self._start()
        compare("8 at a time, cold", await self._together(engine, prompts))
        await engine.engine.close()
        engine = await self._start()
        resumed = [
            await self._answer(engine, n, prompt, reference[n][:RESUMED])
            for n, prompt in enumerate(prompts)
        ]
        compare(f"resumed elsewhere after {RESUMED} tokens", resumed)
        await engine.engine.close()
        return rows

    async def _start(self) -> Caller:
        ears = Ears()
        engine = await LlamaEngine.start(
            self._path, name="demo", sink=ears, hash_key=b"seeded", cells=self._cells
        )
        return Caller(engine, ears)

    async def _answer(
        self, engine: Caller, number: int, prompt: Tokens, generated: Tokens = ()
    ) -> Tokens:
        sampling = replace(self._sampling, seed=number)
        _, answer = engine.submit(prompt, sampling, generated=generated)
        await answer.end()
        assert answer.failed is None, answer.failed
        return (*generated, *answer.tokens)

    async def _together(self, engine: Caller, prompts: Sequence[Tokens]) -> list[Tokens]:
        free = asyncio.Semaphore(8)

        async def one(number: int, prompt: Tokens) -> Tokens:
            async with free:
                return await self._answer(engine, number, prompt)

        return await asyncio.gather(*(one(n, prompt) for n, prompt in enumerate(prompts)))


def _in_common(one: Tokens, other: Tokens) -> int:
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))


async def run(path: Path, wanted: Sequence[str], cells: int) -> None:
    print("| sampling | circumstance | equal | tokens in common, where not (median) |")
    print("| --- | --- | --- | --- |")
    for name in wanted:
        for row in await Trial(path, SAMPLINGS[name], cells).rows():
            common = "" if row.in_common is None else f"{row.in_common:g} of {TOKENS}"
            told = f"{row.equal} of {len(QUESTIONS)}"
            print(f"| {name} | {row.circumstance} | {told} | {common} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare answers in several circumstances.")
    parser.add_argument("--model", type=Path, help="a GGUF file; the demo model by default")
    parser.add_argument("--sampling", choices=SAMPLINGS, action="append")
    parser.add_argument("--cells", type=int, default=0, help="of the KV cache; 0: the default")
    options = parser.parse_args()
    path = options.model or models.demo()
    asyncio.run(run(path, options.sampling or list(SAMPLINGS), options.cells))


if __name__ == "__main__":
    main()
