"""The truth about all nodes at this moment, as only a simulator or a central router can know it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from overlay.identity.peer_id import PeerId


class Fleet(Protocol):
    """Every node's queue, cache, links and speed, without delay, cost or error."""

    @property
    def peers(self) -> Sequence[PeerId]:
        """All nodes that serve the model, in an order that a seed repeats."""
        ...

    def present(self, peer: PeerId) -> int:
        """Requests that are queued or run there, with those on the way there."""
        ...

    def pending_prefill_tokens(self, peer: PeerId) -> int:
        """Prompt tokens that it has yet to compute, with those on the way there."""
        ...

    def match_tokens(self, peer: PeerId, hashes: Sequence[int]) -> int:
        """Leading prompt tokens that its cache holds now, in whole blocks.

        ``hashes``: the prompt's block hashes, first block first.
        """
        ...

    def rtt_ms(self, a: PeerId, b: PeerId) -> float:
        """Round trip between two nodes; 0 from a node to itself."""
        ...

    def prefill_rate(self, peer: PeerId) -> float:
        """Prompt tokens that it computes per second now, beside the answers under way; above 0."""
        ...

    def answer_ms(self, peer: PeerId) -> float:
        """What a token of an answer takes of the machine, beside other answers."""
        ...
