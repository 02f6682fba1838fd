"""Many prefixes, each asked many times in shuffled order: what stays warm, and what a hit takes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from models.engine import Tokens
from tests.bench.contenders import Child
from tests.bench.setting import Setting, in_turn
from tests.bench.workload import SEED

PREFIX_TOKENS: Final = 600
#: With a question of 20 tokens and the longest answer.
PROMPT_CELLS: Final = 640
ANSWER_TOKENS_MAX: Final = 4
#: Cells of one llama-server slot; it rounds them up to a multiple of this.
SLOT_CELLS: Final = 768

#: (prefixes, questions under each)
FULL: Final = (57, 20)
QUICK: Final = (3, 4)
#: llama-cpp-python keeps the logits of a whole batch with each state, so that few fit into memory.
RAM_CACHE: Final = (4, 3)

ALL: Final = "the KV cache holds all"
THIRD: Final = "the KV cache holds a third, RAM the rest"


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt: ``hittable`` of its tokens had been computed by this engine before."""

    ttft_ms: float
    cached: int
    hittable: int


@dataclass(slots=True)
class Figures:
    """One engine in one room."""

    room: str
    engine: str
    #: The first question under each prefix, and the others.
    cold: list[Asked] = field(default_factory=list)
    warm: list[Asked] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        """Of the warm prompts' tokens that could be cached, how many were."""
        return sum(a.cached for a in self.warm) / max(1, sum(a.hittable for a in self.warm))


class _Seen:
    """Everything that an engine has computed, as a trie of tokens."""

    def __init__(self) -> None:
        self._root: dict[int, Any] = {}

    def match(self, tokens: Tokens) -> int:
        node = self._root
        for depth, token in enumerate(tokens):
            if token not in node:
                return depth
            node = node[token]
        return len(tokens)

    def add(self, tokens: Iterable[int]) -> None:
        node = self._root
        for token in tokens:
            node = node.setdefault(token, {})


async def measure(setting: Setting, done: Callable[[], None]) -> list[Figures]:
    """Both rooms; ``done`` is called `prompts` times."""
    return [
        *await _in_room(ALL, setting, done),
        *await _in_room(THIRD, setting, done),
        await _ram_cache(setting, done),
    ]


def prompts(*, quick: bool) -> int:
    """How many steps `measure` tells."""
    prefixes, questions = QUICK if quick else FULL
    return 2 * prefixes * questions + RAM_CACHE[0] * RAM_CACHE[1]


async def _in_room(room: str, setting: Setting, done: Callable[[], None]) -> list[Figures]:
    prefixes, questions = QUICK if setting.quick else FULL
    held = prefixes if room == ALL else prefixes // 3
    # A unified cache was slower for llama-server: each prompt attends past all cells in use. So a
    # slot per prefix, as far as there are cells, each with cells of its own; what a slot loses
    # goes to its RAM cache.
    server = ("--parallel", held, "--ctx-size", held * SLOT_CELLS, "--no-kv-unified")
    hearth = {"cells": held * PROMPT_CELLS}
    asked = _order(setting, prefixes, questions)
    async with setting.engines(hearth, server) as engines:
        figures = {engine.name: Figures(room, engine.name) for engine in engines}
        seen = {engine.name: _Seen() for engine in engines}
        for number, (cold, prompt, count) in enumerate(asked):
            for engine in in_turn(engines, number):
                # The last token is computed in any case: its logits are needed.
                hittable = seen[engine.name].match(prompt[:-1])
                answer = await engine.ask(prompt, count)
                seen[engine.name].add(prompt + answer.tokens[:-1])
                told = Asked(answer.ttft_ms, answer.cached_tokens, hittable)
                kept = figures[engine.name]
                (kept.cold if cold else kept.warm).append(told)
            done()
    return list(figures.values())


async def _ram_cache(setting: Setting, done: Callable[[], None]) -> Figures:
    """llama-cpp-python's `Llama` with its RAM cache, under the first few prefixes."""
    prefixes, questions = RAM_CACHE
    figures = Figures("RAM holds all", "llama-cpp-python")
    child = await Child.start(
        "tests.bench.rival",
        setting.model,
        *("--threads", setting.threads, "--context", 1024, "--states", 2 * prefixes),
    )
    try:
        for cold, prompt, count in _order(setting, prefixes, questions):
            told = await child.ask(prompt=prompt, max_tokens=count)
            asked = Asked(told["ttft_ms"], 0, 0)
            (figures.cold if cold else figures.warm).append(asked)
            done()
    finally:
        await child.close()
    return figures


def _order(setting: Setting, prefixes: int, questions: int) -> list[tuple[bool, Tokens, int]]:
    """(cold, prompt, tokens of the answer): each prefix once, then all the rest, shuffled."""
    vocabulary, dice = setting.vocabulary, random.Random(SEED)
    heads = vocabulary.prefixes(prefixes, PREFIX_TOKENS)
    first, *others = vocabulary.questions(questions)
    later = [head + question for head in heads for question in others]
    dice.shuffle(later)
    return [
        (number < prefixes, vocabulary.prompt(text).tokens, dice.randint(1, ANSWER_TOKENS_MAX))
        for number, text in enumerate([*(head + first for head in heads), *later])
    ]
