"""Agents that call tools: a long shared preamble, then many short steps in a growing context."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from models.engine import Tokens
from overlay.sim.text import name_of, text
from overlay.sim.workload import Conversation, Dice, Exchange, Session, poisson, session_name
from overlay.sim.workloads.parameters import Parameters, Span, at_least


@dataclass(frozen=True)
class Agents(Parameters):
    """Loops of ``steps`` steps, each by one of ``kinds`` agents; one session is one loop.

    A loop begins with its kind's ``preamble`` and a ``task``; each further step adds what the
    tool said (``result``), ``tool_s`` seconds on average after the last ``answer``. Lengths in
    tokens.
    """

    kinds: int = 1
    preamble: Span = Span(2000, 2000)
    task: Span = Span(50, 200)
    steps: Span = Span(5, 25)
    result: Span = Span(50, 400)
    answer: Span = Span(20, 80)
    tool_s: float = 0.5

    def __post_init__(self) -> None:
        at_least(1, kinds=self.kinds, task=self.task.low, steps=self.steps.low)
        at_least(1, result=self.result.low, answer=self.answer.low)
        at_least(0.001, tool_s=self.tool_s)

    def sessions(self, rng: random.Random, *, nodes: int, rate_per_s: float) -> Iterator[Session]:
        dice = Dice.of(rng)
        for number, at_s in enumerate(poisson(dice.arrivals, rate_per_s)):
            preamble = _preamble(dice.popularity.randrange(self.kinds), self.preamble)
            steps = [Exchange(self.task.draw(dice.lengths), self.answer.draw(dice.lengths))]
            for _ in range(1, self.steps.draw(dice.lengths)):
                result, answer = self.result.draw(dice.lengths), self.answer.draw(dice.lengths)
                steps.append(Exchange(result, answer, dice.pauses.expovariate(1 / self.tool_s)))
            turns = Conversation(session_name("agents", number), preamble, steps)
            yield Session(at_s, dice.origins.randrange(nodes), turns)


@lru_cache(maxsize=1024)
def _preamble(kind: int, span: Span) -> Tokens:
    # A preamble's length is its own, whatever the seed: it stands for a text that exists.
    return text(name_of("agents", kind), span.draw(random.Random(kind)))
