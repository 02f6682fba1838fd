"""The paper that Hearth began with: requests go where the longest prefix is believed to be.

S. Nair, K. Saini, "Towards Distributed Inference of LLMs on a P2P Network", arXiv 2606.17059,
2026. Each node keeps a radix tree of its own cache and estimates of the others', refreshed by
anti-entropy; a request goes to the node with the longest estimated match. Load and latency play no
part: its authors name slow links and hotspots as its limits.

Here the summaries that Hearth gossips are the estimates. They are as fresh as Hearth's own, and
those of the paper, which exchanges whole snapshots now and then, at best as fresh.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import inf
from typing import Final

from overlay.routing.cost import Candidate
from overlay.routing.policy import Question
from overlay.sim.baselines.rule import Rule, own_of

#: The part of a prompt that must be cached here for it to stay, where there is a threshold. The
#: descriptions of the paper that we have speak of a match that is "long enough" and give no
#: number; half of the prompt is what SGLang's first cache-aware router took.
STAY_RATIO: Final = 0.5


class LongestMatch(Rule):
    """The node with the longest match; this one if none has a longer one; then chance.

    ``stay_ratio``: a prompt of which at least this part is cached here stays here, even if
    another node has more of it.
    """

    def __init__(self, rng: random.Random, stay_ratio: float = inf) -> None:
        self._rng = rng
        self._stay_ratio = stay_ratio

    def choose(self, question: Question, candidates: Sequence[Candidate], now: float) -> Candidate:
        """See `Rule.choose`."""
        own = own_of(candidates)
        longest = max(c.match_tokens for c in candidates)
        if own is not None:
            enough = self._stay_ratio * question.prompt_tokens
            if own.match_tokens >= min(longest, enough):
                return own
        return self._rng.choice([c for c in candidates if c.match_tokens == longest])
