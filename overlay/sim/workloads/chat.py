"""People who chat: a few turns each, with pauses to read and think."""

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
class Chat(Parameters):
    """Conversations of ``turns`` turns, by ``users`` users at each node, each with equal chance.

    A user always asks the same node, with one of ``systems`` system prompts. ``system``, ``said``
    and ``answer`` in tokens; ``think_s``: the mean of the (exponential) pauses between turns.
    """

    users: int = 20
    systems: int = 1
    system: Span = Span(400, 400)
    turns: Span = Span(2, 12)
    said: Span = Span(20, 80)
    answer: Span = Span(30, 150)
    think_s: float = 20.0

    def __post_init__(self) -> None:
        at_least(1, users=self.users, systems=self.systems, turns=self.turns.low)
        at_least(1, said=self.said.low, answer=self.answer.low)
        at_least(0.001, think_s=self.think_s)

    def sessions(self, rng: random.Random, *, nodes: int, rate_per_s: float) -> Iterator[Session]:
        dice = Dice.of(rng)
        for number, at_s in enumerate(poisson(dice.arrivals, rate_per_s)):
            node = dice.origins.randrange(nodes)
            user = dice.popularity.randrange(self.users)
            system = _system(name_of("chat", node, user) % self.systems, self.system)
            exchanges = [
                Exchange(
                    self.said.draw(dice.lengths),
                    self.answer.draw(dice.lengths),
                    dice.pauses.expovariate(1 / self.think_s) if turn else 0.0,
                )
                for turn in range(self.turns.draw(dice.lengths))
            ]
            turns = Conversation(session_name("chat", number), system, exchanges)
            yield Session(at_s, node, turns)


@lru_cache(maxsize=1024)
def _system(number: int, span: Span) -> Tokens:
    # A prompt's length is its own, whatever the seed: it stands for a text that exists.
    return text(name_of("chat", number), span.draw(random.Random(number)))
