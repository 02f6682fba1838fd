"""What all rivals have in common: one choice, made where the user asked."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from overlay.routing.cost import Candidate, estimate, typical_rates
from overlay.routing.decision import Decision
from overlay.routing.policy import Question


class Rule(ABC):
    """A policy that chooses once, at the origin: whoever gets a forwarded request keeps it."""

    def decide(self, question: Question, candidates: Sequence[Candidate], now: float) -> Decision:
        """See `Policy.decide`."""
        own = own_of(candidates)
        if question.forwarded and own is not None:
            return without_reasons(question, own)
        return without_reasons(question, self.choose(question, candidates, now))

    @abstractmethod
    def choose(self, question: Question, candidates: Sequence[Candidate], now: float) -> Candidate:
        """One of ``candidates``, which are never empty. ``now``: seconds."""


def own_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """The deciding node itself, if it serves the model."""
    return next((c for c in candidates if c.is_self), None)


def without_reasons(question: Question, chosen: Candidate) -> Decision:
    """The decision of a rule that compares no costs: only the choice is estimated.

    Never ``blind``, which says that summaries were wanted and missing.
    """
    only = estimate(
        question.prompt_tokens,
        question.answer_tokens,
        chosen,
        typical_rates([chosen]),
        own=not question.forwarded,
    )
    return Decision(
        choice=chosen.peer,
        estimates=(only,),
        blind=False,
        prompt_tokens=question.prompt_tokens,
    )


def least(
    candidates: Sequence[Candidate], cost: Callable[[Candidate], float], rng: random.Random
) -> Candidate:
    """The candidate with the lowest cost; ties go to chance."""
    costs = [cost(c) for c in candidates]
    lowest = min(costs)
    return rng.choice([c for c, own in zip(candidates, costs, strict=True) if own == lowest])


def load(candidate: Candidate) -> int:
    """Requests there, by gossip and by what this node itself has sent since."""
    return candidate.running + candidate.queued
