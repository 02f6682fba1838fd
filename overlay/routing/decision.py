"""Where a request goes: one decision, which can explain itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.routing.cost import Estimate

#: Costs closer than this are equal: no estimate is better than a millisecond.
TIE_MS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """The choice, and everything it was made from. ``estimates``: cheapest first."""

    choice: PeerId
    estimates: tuple[Estimate, ...]
    #: There were peers, and no usable summary of any of them.
    blind: bool
    prompt_tokens: int
    #: Once it is answered elsewhere, so many leading tokens of the prompt are worth computing here,
    #: for requests to come, in time that nobody else needs. 0 if the choice is this node.
    prefetch_tokens: int = 0

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
            return "no other node that serves this model can be asked."
        other = next((e for e in others if e.is_self), others[0])
        has = there = ""
        # Where none is known to have any of it, its length may be a guess, too.
        if any(e.match_tokens for e in self.estimates):
            has = f" has {chosen.match_tokens} of {self.prompt_tokens} prompt tokens cached and"
            there = f" ({other.match_tokens} cached)"
        if other.cost_ms <= chosen.cost_ms + TIE_MS:
            return f"{name(chosen)}{has} costs as little as any node."
        return (
            f"{name(chosen)}{has} costs {chosen.cost_ms:,.0f} ms; "
            f"{name(other)}{there} would cost {other.cost_ms:,.0f} ms."
        )
