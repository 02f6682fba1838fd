"""GORGO's cost, which knows of the network.

A. Ricci Toniolo, A. Dinesh, R. Thorstenson, "GORGO", arXiv 2602.11688, 2026; their code:
github.com/atoniolo76/GORGO, gorgo/policy/gorgo.py (`gorgo-2d`). A proxy sends each request to the
replica with the lowest

    score = w_rtt * rtt + t_prefill * uncached_tokens + w_queue * t_prefill * queued_tokens

where queued_tokens are the prompt tokens, cached or not, of all requests sent there that have not
been completed. All terms are milliseconds. The authors tune both weights online by an evolutionary
strategy, then hold them; runs here begin with them held: w_rtt at 1, which is what milliseconds
ask for, and w_queue at 0.1, where their tuning starts. (It ended at 0.104 on one trace and at 0.5,
the most it may be, on another. In our simulator 0.3 and more did worse than 0.1.)

Kinder than theirs: the cache is known exactly (their proxy does not see evictions), as is each
replica's t_prefill, and distances count from the node that was asked, not from one proxy.
"""

from __future__ import annotations

from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.routing.policy import Question
from overlay.sim.baselines.central import Cheapest

RTT_WEIGHT: Final = 1.0
QUEUE_WEIGHT: Final = 0.1


class Gorgo(Cheapest):
    """See the module."""

    def cost(self, origin: PeerId, question: Question, peer: PeerId) -> float:
        """In milliseconds."""
        token_ms = 1000.0 / self.fleet.prefill_rate(peer)
        uncached = question.prompt_tokens - self.fleet.match_tokens(peer, question.hashes)
        queued = self.underway.total_blocks(peer) * BLOCK_TOKENS
        rtt_ms = self.fleet.rtt_ms(origin, peer)
        return RTT_WEIGHT * rtt_ms + token_ms * (uncached + QUEUE_WEIGHT * queued)
