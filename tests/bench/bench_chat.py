"""Conversations that take turns: each turn should compute only what is new in it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from models.engine import Tokens
from tests.bench.setting import Setting, in_turn
from tests.bench.workload import SEED

#: (users, turns)
FULL: Final = (8, 10)
QUICK: Final = (4, 3)
SYSTEM_TOKENS: Final = 100
MESSAGE_TOKENS: Final = 30
ANSWER_TOKENS: Final = 24
#: Of one conversation at its end, rounded up generously.
CHAT_CELLS: Final = 1024


@dataclass(frozen=True, slots=True)
class Turn:
    """``hittable``: the tokens computed in earlier turns, the answers' included."""

    engine: str
    turn: int
    ttft_ms: float
    prompt_tokens: int
    cached: int
    hittable: int


async def measure(setting: Setting, done: Callable[[], None]) -> list[Turn]:
    """``done`` is called for each of `prompts`."""
    users, turns = QUICK if setting.quick else FULL
    # A slot for each user, so that llama-server loses nobody.
    server = ("--parallel", users, "--ctx-size", users * CHAT_CELLS, "--no-kv-unified")
    heads = setting.vocabulary.prefixes(users, SYSTEM_TOKENS)
    start = [setting.vocabulary.prompt(head).tokens for head in heads]
    dice = random.Random(SEED)
    said = [
        [setting.vocabulary.said(MESSAGE_TOKENS, dice) for _ in range(turns)] for _ in range(users)
    ]
    told: list[Turn] = []
    async with setting.engines({"cells": users * CHAT_CELLS}, server) as engines:
        # Engines may answer differently, so each goes on from its own words.
        history: dict[tuple[str, int], Tokens] = {
            (engine.name, user): start[user] for engine in engines for user in range(users)
        }
        for turn in range(turns):
            for user in dice.sample(range(users), users):
                for engine in in_turn(engines, turn + user):
                    before = history[engine.name, user]
                    prompt = before + said[user][turn]
                    answer = await engine.ask(prompt, ANSWER_TOKENS)
                    history[engine.name, user] = prompt + answer.tokens
                    # An answer's last token is shown, but not computed.
                    hittable = len(before) - 1 if turn else 0
                    told.append(
                        Turn(
                            engine.name,
                            turn + 1,
                            answer.ttft_ms,
                            len(prompt),
                            answer.cached_tokens,
                            hittable,
                        )
                    )
                done()
    return told


def prompts(*, quick: bool) -> int:
    users, turns = QUICK if quick else FULL
    return users * turns
