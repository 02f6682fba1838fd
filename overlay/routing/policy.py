"""The seam between a request's life and the choice of where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from overlay.routing.cost import Candidate
from overlay.routing.decision import Decision


@dataclass(frozen=True, slots=True)
class Question:
    """A request that is to be placed, as far as routing cares."""

    prompt_tokens: int
    #: Block hashes of the prompt, first block first; empty if it could not be tokenized here.
    hashes: tuple[int, ...]
    #: How long the answer is expected to be, in tokens.
    answer_tokens: int
    #: A peer sent it here, having decided for this node by what it knows.
    forwarded: bool


class Policy(Protocol):
    """Decides for one node where its requests run."""

    def decide(self, question: Question, candidates: Sequence[Candidate], now: float) -> Decision:
        """Choose one of ``candidates``: the nodes that are UP and serve the model, at least one."""
        ...
