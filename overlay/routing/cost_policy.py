"""Hearth's own policy: every request goes where it costs least."""

from __future__ import annotations

import random
from collections.abc import Sequence

from overlay.routing.cost import (
    SUMMARY_WEIGHT_MIN,
    Candidate,
    alpha_at,
    estimate,
    typical_rates,
    utilisation,
)
from overlay.routing.decision import TIE_MS, Decision
from overlay.routing.policy import Question


class CostPolicy:
    """The candidate with the least cost; ties go to self, then to chance."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def decide(self, question: Question, candidates: Sequence[Candidate], now: float) -> Decision:
        """See `Policy.decide`."""
        alpha = alpha_at(utilisation(candidates))
        return cheapest(question, candidates, alpha, self._rng)


def cheapest(
    question: Question, candidates: Sequence[Candidate], alpha: float, rng: random.Random
) -> Decision:
    """The candidate with the least cost at this ``alpha``; ties go to self, then to chance."""
    typical = typical_rates(candidates)
    estimates = sorted(
        (
            estimate(question.prompt_tokens, question.answer_tokens, c, alpha, typical)
            for c in candidates
        ),
        key=lambda e: (e.cost_ms, not e.is_self, e.peer),
    )
    tied = [e for e in estimates if e.cost_ms <= estimates[0].cost_ms + TIE_MS]
    own = [e for e in tied if e.is_self]
    chosen = own[0] if own else rng.choice(tied)
    peers = [c for c in candidates if not c.is_self]
    return Decision(
        choice=chosen.peer,
        estimates=tuple(estimates),
        alpha=alpha,
        blind=bool(peers) and all(c.summary_weight < SUMMARY_WEIGHT_MIN for c in peers),
        prompt_tokens=question.prompt_tokens,
    )
