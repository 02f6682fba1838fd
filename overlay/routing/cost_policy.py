"""Hearth's own policy: every request goes where it costs least, to it and to those after it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from overlay.prefix.chain import BLOCK_TOKENS
from overlay.routing.cost import (
    PROMPT_STEP_MS,
    SUMMARY_WEIGHT_MIN,
    Candidate,
    Estimate,
    estimate,
    typical_rates,
)
from overlay.routing.decision import TIE_MS, Decision
from overlay.routing.history import History
from overlay.routing.keeper import keeper
from overlay.routing.policy import Question
from overlay.routing.prices import SPARE_WORTH, USES_EXPECTED, Prices
from overlay.routing.speeds import Speeds

#: Where room is short, what comes makes something else go that is worth nearly as much.
NET_GAIN: Final = 1 / 8
#: No conversation is expected to go on for more turns than this.
TURNS_MAX: Final = 3.0
#: A holder of this share of the longest match holds the same prefix.
SAME_PREFIX: Final = 0.75


class CostPolicy:
    """The candidate with the least cost; ties go to self, then to chance."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._prices = Prices()
        self._history = History()
        self._speeds = Speeds()

    def decide(self, question: Question, candidates: Sequence[Candidate], now: float) -> Decision:
        """See `Policy.decide`."""
        own = not question.forwarded
        self._prices.seen(candidates, now)
        typical = typical_rates(candidates)
        estimates = [
            estimate(
                question.prompt_tokens,
                question.answer_tokens,
                c,
                typical,
                own=own,
                alpha=self._prices.alpha(c.peer),
                busy=self._prices.busy(c.peer),
            )
            for c in self._speeds.believed(candidates, typical, now)
        ]
        longest = max(estimates, key=lambda e: (e.match_tokens, e.is_self, -e.cost_ms))
        if not own or not longest.match_tokens:
            if own:
                self._history.asked(question.hashes)
            return cheapest(question, candidates, estimates, self._rng)
        uses = self._history.uses(question.hashes, now)
        estimates = self._kept_together(question, estimates, longest, uses)
        here = next((e for e in estimates if e.is_self), None)
        held = here is not None and here.match_tokens >= longest.match_tokens
        worth_a_copy = False
        if here is not None and not held:
            saved_ms = self._saved_ms(longest, uses, now)
            lacks = (longest.match_tokens - here.match_tokens) * _token_ms(question, here)
            spare_ms = (self._prices.room - 1 + SPARE_WORTH) * lacks
            worth_a_copy = saved_ms > spare_ms
            # A copy that is worth it comes anyway: this request need not wait for it.
            estimates[estimates.index(here)] = here.with_later(-min(saved_ms, spare_ms))
        self._history.asked(question.hashes)
        decision = cheapest(question, candidates, estimates, self._rng)
        stays = held or worth_a_copy or decision.chosen.is_self
        self._history.used(_end(question, longest), now, held=held, stays=stays)
        if worth_a_copy and not decision.chosen.is_self:
            return replace(decision, prefetch_tokens=longest.match_tokens)
        return decision

    def _saved_ms(self, longest: Estimate, uses: float, now: float) -> float:
        """What a copy here saves requests to come: the rents of being far."""
        history = self._history
        turns = min(TURNS_MAX, history.goes_on / max(1e-9, 1 - history.goes_on))
        there_ms = longest.rtt_ms + max(0.0, longest.wait_ms - PROMPT_STEP_MS)
        expected = uses + USES_EXPECTED * history.again
        gained = min(expected, NET_GAIN * history.uses_before_gone(uses, now))
        return (gained * longest.rtt_ms + turns * there_ms) / self._prices.room

    def _kept_together(
        self, question: Question, estimates: list[Estimate], longest: Estimate, uses: float
    ) -> list[Estimate]:
        """A copy that nobody needs takes room of others.

        Where room is dear, requests for one prefix keep to one of its holders, so that its other
        copies go.
        """
        holders = [e for e in estimates if e.match_tokens >= SAME_PREFIX * longest.match_tokens]
        kept = keeper(_end(question, longest), [e.peer for e in holders])
        copy_ms = longest.match_tokens * _token_ms(question, longest)
        room_ms = (self._prices.memory - 1) * copy_ms / max(1.0, uses)
        return [
            each.with_later(room_ms) if each in holders and each.peer != kept else each
            for each in estimates
        ]


def cheapest(
    question: Question,
    candidates: Sequence[Candidate],
    estimates: Sequence[Estimate],
    rng: random.Random,
) -> Decision:
    """The candidate with the least cost; ties go to self, then to chance."""
    ranked = sorted(estimates, key=lambda e: (e.cost_ms, not e.is_self, e.peer))
    tied = [e for e in ranked if e.cost_ms <= ranked[0].cost_ms + TIE_MS]
    own = [e for e in tied if e.is_self]
    chosen = own[0] if own else rng.choice(tied)
    peers = [c for c in candidates if not c.is_self]
    return Decision(
        choice=chosen.peer,
        estimates=tuple(ranked),
        blind=bool(peers) and all(c.summary_weight < SUMMARY_WEIGHT_MIN for c in peers),
        prompt_tokens=question.prompt_tokens,
    )


def _end(question: Question, longest: Estimate) -> int:
    """The last block of the longest match."""
    blocks = max(1, longest.match_tokens // BLOCK_TOKENS)
    return question.hashes[min(blocks, len(question.hashes)) - 1]


def _token_ms(question: Question, at: Estimate) -> float:
    """How long one more token of the prompt takes there."""
    return at.prefill_ms / max(1, question.prompt_tokens - at.match_tokens)
