"""A central router with perfect knowledge: what there is to gain.

For each node it knows the queue, the cache, the speed and the distance, and also what the prompts
that are on their way or wait there will leave in the cache before this one is computed. It sends
each request where its first token comes soonest:

    cost = rtt + (pending_prefill_tokens + alpha * uncached_tokens) / prefill_rate

It is greedy: it knows all of the present and nothing of the future, so it is no bound. With alpha
at 1 it computes again what somebody has cached as soon as that saves this user a millisecond,
though everybody behind pays for it. `oracle-alpha` makes the request pay for that.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from overlay.identity.peer_id import PeerId
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.routing.cost import Candidate
from overlay.routing.policy import Question
from overlay.sim.baselines.central import Router
from overlay.sim.baselines.rule import least
from overlay.sim.fleet import Fleet


class Oracle(Router):
    """See the module."""

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        super().__init__(fleet)
        self._rng = rng

    def best(
        self, origin: PeerId, question: Question, candidates: Sequence[Candidate], now: float
    ) -> Candidate:
        """See `Router.best`."""
        alpha = self.alpha(candidates)
        return least(candidates, lambda c: self.cost_ms(origin, question, c.peer, alpha), self._rng)

    def alpha(self, candidates: Sequence[Candidate]) -> float:
        """The price of computing a token."""
        return 1.0

    def cost_ms(self, origin: PeerId, question: Question, peer: PeerId, alpha: float) -> float:
        """With ``alpha`` 1: until a user at ``origin`` sees the first token of ``peer``."""
        hashes = question.hashes
        coming = self.underway.match_blocks(peer, hashes) * BLOCK_TOKENS
        match = max(self.fleet.match_tokens(peer, hashes), coming)
        # A prompt's last token is always computed: its logits give the answer's first token.
        uncached = max(1, question.prompt_tokens - match)
        tokens = self.fleet.pending_prefill_tokens(peer) + alpha * uncached
        return self.fleet.rtt_ms(origin, peer) + 1000.0 * tokens / self.fleet.prefill_rate(peer)


class PricedOracle(Oracle):
    """Charges for the machine time that a cold computation takes from others.

    In a queue that is busy for a share rho of its time, each second of work that is added delays
    those who come while it is busy by rho / (1 - rho) seconds in all.
    """

    def alpha(self, candidates: Sequence[Candidate]) -> float:
        """See `Oracle.alpha`."""
        busy = sum(1 for c in candidates if self.fleet.present(c.peer))
        # The one that comes is counted as half a node's work, so that rho stays below 1.
        rho = busy / (len(candidates) + 0.5)
        return 1.0 / (1.0 - rho)
