"""A central router with perfect knowledge: what there is to gain.

For each node it knows the queue, the cache, the speed at this moment and the distance, and also
what the prompts that are on their way or wait there will leave in the cache before this one is
computed. It sends each request where its first token comes soonest:

    cost = rtt + (pending_prefill_tokens + uncached_tokens) / prefill_rate

It is greedy: it knows all of the present and nothing of the future, so it is no bound. It does
what saves this user a millisecond, though everybody who comes later pays for it. `oracle-alpha`
makes a request pay for the machine time that it takes: what it has to compute, and its answer's
share of every step, times PRICE for each request that is there. In trials of that price between
0.03 and 1 (Zipf groups, MMLU, chats; 2 to 16 nodes, loads of 40 to 90%), values up to a quarter
were within a tenth of `oracle` for single questions, and up to a third faster for chats.
"""

from __future__ import annotations

import random
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.routing.policy import Question
from overlay.sim.baselines.central import Cheapest
from overlay.sim.fleet import Fleet

#: Of machine time, for each request that shares the machine.
PRICE: Final = 0.125


class Oracle(Cheapest):
    """See the module. ``price``: 0 for the greedy one."""

    def __init__(self, fleet: Fleet, rng: random.Random, price: float = 0.0) -> None:
        super().__init__(fleet, rng)
        self._price = price

    def cost(self, origin: PeerId, question: Question, peer: PeerId) -> float:
        """In milliseconds: until the user sees the first token, and the price of the work."""
        token_ms = 1000.0 / self.fleet.prefill_rate(peer)
        coming = self.underway.match_blocks(peer, question.hashes) * BLOCK_TOKENS
        match = max(self.fleet.match_tokens(peer, question.hashes), coming)
        # A prompt's last token is always computed: its logits give the answer's first token.
        own_ms = token_ms * max(1, question.prompt_tokens - match)
        wait_ms = token_ms * self.fleet.pending_prefill_tokens(peer)
        work_ms = own_ms + question.answer_tokens * self.fleet.answer_ms(peer)
        price = self._price * self.fleet.present(peer)
        return self.fleet.rtt_ms(origin, peer) + wait_ms + own_ms + price * work_ms
