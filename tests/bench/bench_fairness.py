"""Whether lending a machine makes it slow for its owner: three friends ask beside the owner.

One node has a model and a warm prefix; its owner asks short questions under it, with pauses to
think. In every other phase three friends, whose nodes have no model, ask theirs under the same
prefix, as fast as friends do. The owner's time to first token is compared between the phases.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.mmlu_like import QUESTION_TOKENS, Request
from tests.bench.policy_run import ask, port_of
from tests.bench.proxied_mesh import ProxiedMesh, Setup, proxied_mesh
from tests.bench.report import markdown, percentile
from tests.bench.workload import SEED, Vocabulary

FRIENDS: Final = 3
PREFIX_TOKENS: Final = 600
ANSWER_TOKENS: Final = 16
DELAY_MS: Final = 20.0
JITTER_MS: Final = 5.0
CELLS: Final = 16_384
#: Pairs of phases, one without guests and one with them, and the owner's requests in each phase.
PAIRS: Final = 6
QUICK_PAIRS: Final = 2
REQUESTS: Final = 10
#: How long somebody thinks before asking again: shortest, longest.
OWNER_THINKS_S: Final = (0.2, 1.0)
FRIEND_THINKS_S: Final = (0.5, 1.5)
#: The owner's p95 with guests may be so many times that without.
GOAL: Final = 1.25


@dataclass(frozen=True, slots=True)
class Figures:
    """Times to first token, in ms."""

    alone_ms: list[float]
    shared_ms: list[float]
    friends_ms: list[float]

    @property
    def ratio(self) -> float:
        """The owner's p95 with guests, by that without."""
        return percentile(self.shared_ms, 0.95) / percentile(self.alone_ms, 0.95)


class _Users:
    """Everybody who asks, and what they have seen."""

    def __init__(self, mesh: ProxiedMesh, vocabulary: Vocabulary, model: str) -> None:
        self._mesh = mesh
        self._vocabulary = vocabulary
        self._model = model
        self._dice = random.Random(SEED + 4)
        self._prefix = vocabulary.prefixes(1, PREFIX_TOKENS)[0]
        self._asked = 0

    async def ask(self, node: int) -> float:
        """The next question at a node; returns its time to first token in ms."""
        self._asked += 1
        length = self._dice.randint(*QUESTION_TOKENS)
        question = self._vocabulary.grown(f"\nQuestion {self._asked}:", length, self._dice)
        prompt = self._vocabulary.prompt(self._prefix + question)
        request = Request(0, node, prompt, ANSWER_TOKENS)
        last, ttft_ms = await ask(port_of(self._mesh.nodes[node].api), self._model, request)
        assert last["hearth"]["served_by"] == self._mesh.peer_ids[0], last["hearth"]
        cached = last["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert self._asked == 1 or cached >= PREFIX_TOKENS - 1, f"only {cached} tokens were cached"
        return ttft_ms

    async def think(self, shortest_s: float, longest_s: float) -> None:
        await asyncio.sleep(self._dice.uniform(shortest_s, longest_s))


async def measure(model: Path, pairs: int, done: Callable[[], None], folder: Path) -> Figures:
    """``done`` is called after each of the owner's answers; homes and logs go to ``folder``."""
    setup = Setup(model, 1 + FRIENDS, 1, DELAY_MS, JITTER_MS, CELLS, 0, SEED)
    figures = Figures([], [], [])
    async with proxied_mesh(setup, None, folder) as mesh:
        name = (await mesh.nodes[0].status())["models"][0]
        users = _Users(mesh, Vocabulary(model), name)
        await users.ask(0)  # the prefix is cold
        for _ in range(pairs):
            await _owner(users, figures.alone_ms, done)
            over = asyncio.Event()
            friends = [
                asyncio.create_task(_friend(users, node, figures.friends_ms, over))
                for node in range(1, 1 + FRIENDS)
            ]
            await _owner(users, figures.shared_ms, done)
            over.set()
            await asyncio.gather(*friends)
    return figures


async def _owner(users: _Users, ttfts_ms: list[float], done: Callable[[], None]) -> None:
    for _ in range(REQUESTS):
        await users.think(*OWNER_THINKS_S)
        ttfts_ms.append(await users.ask(0))
        done()


async def _friend(users: _Users, node: int, ttfts_ms: list[float], over: asyncio.Event) -> None:
    while not over.is_set():
        ttfts_ms.append(await users.ask(node))
        await users.think(*FRIEND_THINKS_S)


def table(figures: Figures) -> str:
    """One row for each who asks and when."""
    cases = {
        "owner, nobody else asks": figures.alone_ms,
        f"owner, {FRIENDS} friends ask too": figures.shared_ms,
        "the friends": figures.friends_ms,
    }
    return markdown(
        ("who asks", "requests", "TTFT p50, ms", "p95, ms", "slowest, ms"),
        [
            (
                case,
                str(len(ttfts_ms)),
                *(f"{percentile(ttfts_ms, share):,.0f}" for share in (0.5, 0.95, 1.0)),
            )
            for case, ttfts_ms in cases.items()
        ],
    )


def remarks(figures: Figures) -> list[str]:
    """The facts beside the table, a sentence each."""
    met = "met" if figures.ratio <= GOAL else "not met"
    return [
        f"A warm prefix of {PREFIX_TOKENS} tokens, questions of {QUESTION_TOKENS[0]} to "
        f"{QUESTION_TOKENS[1]}, answers of {ANSWER_TOKENS}; all physical cores.",
        f"The owner's p95 with guests is {figures.ratio:.2f} times that without; the goal of at "
        f"most {GOAL} is {met}.",
    ]
