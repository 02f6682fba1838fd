"""Where a request costs least: one decision, which can explain itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from overlay.errors import NoRoute
from overlay.identity.peer_id import PeerId
from overlay.routing.cost import (
    SUMMARY_WEIGHT_MIN,
    Candidate,
    Estimate,
    estimate,
    typical_rates,
)

#: Costs closer than this are equal: no estimate is better than a millisecond.
TIE_MS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """The choice, and everything it was made from. ``estimates``: cheapest first."""

    choice: PeerId
    estimates: tuple[Estimate, ...]
    alpha: float
    #: There were peers, and no usable summary of any of them.
    blind: bool
    prompt_tokens: int

    @property
    def chosen(self) -> Estimate:
        """The estimate of the choice."""
        return next(e for e in self.estimates if e.peer == self.choice)

    def explain(self, name_of: Callable[[PeerId], str]) -> str:
        """One sentence for people; ``name_of`` says what they call a peer."""

        def name(e: Estimate) -> str:
            return "this node" if e.is_self else name_of(e.peer)

        chosen = self.chosen
        others = [e for e in self.estimates if e is not chosen]
        if not others:
            return f"{name(chosen)} is the only node that serves this model."
        other = next((e for e in others if e.is_self), others[0])
        cached = f"{chosen.match_tokens} of {self.prompt_tokens} prompt tokens cached"
        if other.cost_ms <= chosen.cost_ms + TIE_MS:
            return f"{name(chosen)} has {cached} and costs as little as any node."
        return (
            f"{name(chosen)} has {cached} and costs {chosen.cost_ms:,.0f} ms; "
            f"{name(other)} ({other.match_tokens} cached) would cost {other.cost_ms:,.0f} ms."
        )


def decide(
    prompt_tokens: int, candidates: Sequence[Candidate], *, alpha: float, rng: random.Random
) -> Decision:
    """Choose the candidate with the least cost; ties go to self, then to chance.

    ``alpha``: see `cost.alpha_at`. Peers that are DOWN are no candidates. Raises NoRoute when
    there is no candidate.
    """
    if not candidates:
        raise NoRoute("no reachable node serves this model")
    typical = typical_rates(candidates)
    estimates = sorted(
        (estimate(prompt_tokens, c, alpha, typical) for c in candidates),
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
        prompt_tokens=prompt_tokens,
    )
