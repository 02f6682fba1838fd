"""Groups of requests that share a prefix, some groups more popular than others."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from models.engine import Tokens
from overlay.sim.text import name_of, text
from overlay.sim.workload import (
    Conversation,
    Dice,
    Exchange,
    Session,
    geometric,
    poisson,
    session_name,
    zipf_weights,
)
from overlay.sim.workloads.parameters import Parameters, Span, at_least


@dataclass(frozen=True)
class Zipf(Parameters):
    """Single questions on one of ``groups`` prefixes; the k-th is asked for 1/k**skew as often.

    ``prefix`` and ``question`` in tokens; ``answer`` tokens on average, geometrically spread. Every
    node is asked as often as any other, for any group.
    """

    groups: int = 64
    skew: float = 1.0
    prefix: Span = Span(600, 600)
    question: Span = Span(30, 60)
    answer: float = 64.0

    def __post_init__(self) -> None:
        at_least(1, groups=self.groups, question=self.question.low, answer=self.answer)

    def sessions(self, rng: random.Random, *, nodes: int, rate_per_s: float) -> Iterator[Session]:
        dice = Dice.of(rng)
        weights = zipf_weights(self.groups, self.skew)
        groups = range(self.groups)
        for number, at_s in enumerate(poisson(dice.arrivals, rate_per_s)):
            (group,) = dice.popularity.choices(groups, cum_weights=weights)
            exchange = Exchange(
                self.question.draw(dice.lengths), geometric(dice.lengths, self.answer)
            )
            turns = Conversation(
                session_name("zipf", number), _prefix(group, self.prefix), [exchange]
            )
            yield Session(at_s, dice.origins.randrange(nodes), turns)


@lru_cache(maxsize=1024)
def _prefix(group: int, span: Span) -> Tokens:
    # A group's length is its own, whatever the seed: it stands for a text that exists.
    return text(name_of("zipf", group), span.draw(random.Random(group)))
