"""NVIDIA Dynamo's KV-aware router.

Source: ai-dynamo/dynamo, lib/kv-router/src/scheduling/selector.rs, and the router's documentation
(docs/components/router): the worker with the lowest

    cost = overlap_weight * prefill_blocks + decode_blocks

where prefill_blocks are those that the worker would have to compute with this request (what it has
yet to compute, and what of this prompt is not in its cache), and decode_blocks those that the
prompts underway there would take with it, shared ones once. Both weights are 1 and the temperature
0 by default, so the lowest cost wins; among equals chance decides.

The cache's content comes from the workers' events, here without delay. Answers' blocks do not
count, which is the default. Chosen here: a block has 32 tokens as everywhere in Hearth; theirs
have what the engine has, 16 to 64.
"""

from __future__ import annotations

from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.routing.policy import Question
from overlay.sim.baselines.central import Cheapest

OVERLAP_WEIGHT: Final = 1.0


class Dynamo(Cheapest):
    """See the module."""

    def cost(self, origin: PeerId, question: Question, peer: PeerId) -> float:
        """In blocks."""
        cached = self.fleet.match_tokens(peer, question.hashes)
        prefill_tokens = self.fleet.pending_prefill_tokens(peer) + question.prompt_tokens - cached
        new = len(question.hashes) - self.underway.match_blocks(peer, question.hashes)
        decode_blocks = self.underway.distinct_blocks(peer) + new
        return OVERLAP_WEIGHT * prefill_tokens / BLOCK_TOKENS + decode_blocks
