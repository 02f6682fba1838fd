"""SGLang's cache-aware router.

Source: sgl-project/sglang, sgl-model-gateway (sglang-router 0.3.2 on PyPI, January 2026),
src/policies/cache_aware.rs and tree.rs; defaults of its command line (router_args.py).

The router keeps a prefix tree of what it has sent to whom, an approximation of the caches:

- If the busiest worker has over 64 requests more than the idlest and over 1.5 times as many, the
  request goes to the idlest.
- Otherwise, if over 0.3 of the prompt is in the tree, to the worker that was first to have the
  deepest part of it.
- Otherwise to the idlest. (Up to December 2025: to the one with the smallest tree.) Of several
  that are idle it takes the first of its list, so an idle fleet's cold prompts gather there.

Every 60 s the parts that were longest unused are cut from each worker's share of the tree, until
it has at most 2**26 characters.

Chosen here: the tree holds blocks instead of characters, at 4 characters per token; the list is
in the order of PeerIds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.routing.cost import Candidate
from overlay.routing.policy import Question
from overlay.sim.baselines.central import Router
from overlay.sim.fleet import Fleet

CACHE_THRESHOLD: Final = 0.3
BALANCE_ABS_THRESHOLD: Final = 64
BALANCE_REL_THRESHOLD: Final = 1.5
EVICTION_INTERVAL_S: Final = 60.0
_CHARS_PER_TOKEN: Final = 4
MAX_TREE_BLOCKS: Final = 2**26 // (_CHARS_PER_TOKEN * BLOCK_TOKENS)


class Sglang(Router):
    """See the module. ``max_tree_blocks``: of one worker's share, after an eviction."""

    def __init__(self, fleet: Fleet, max_tree_blocks: int = MAX_TREE_BLOCKS) -> None:
        super().__init__(fleet)
        self._tree = ApproximateTree()
        self._max_tree_blocks = max_tree_blocks
        self._evict_at_s = EVICTION_INTERVAL_S

    def best(
        self, origin: PeerId, question: Question, candidates: Sequence[Candidate], now: float
    ) -> Candidate:
        """See `Router.best`."""
        if now >= self._evict_at_s:
            self._evict_at_s = now + EVICTION_INTERVAL_S
            self._tree.evict(self._max_tree_blocks)
        chosen = self._cached(question, candidates) or self._idlest(candidates)
        self._tree.insert(chosen.peer, question.hashes)
        return chosen

    def _cached(self, question: Question, candidates: Sequence[Candidate]) -> Candidate | None:
        """The worker whose cache is to be used; None: the idlest one is better."""
        loads = [self._load(c) for c in candidates]
        most, fewest = max(loads), min(loads)
        if most - fewest > BALANCE_ABS_THRESHOLD and most > BALANCE_REL_THRESHOLD * fewest:
            return None
        blocks, owner = self._tree.match(question.hashes)
        if blocks * BLOCK_TOKENS <= CACHE_THRESHOLD * question.prompt_tokens:
            return None
        return next((c for c in candidates if c.peer == owner), None)

    def _idlest(self, candidates: Sequence[Candidate]) -> Candidate:
        return min(candidates, key=lambda c: (self._load(c), c.peer))

    def _load(self, candidate: Candidate) -> float:
        return self.fleet.present(candidate.peer)


class ApproximateTree:
    """Which worker was sent which prefix. Block hashes are chained, so that a table of them is
    the tree: a block's ancestors are in it as long as the block is."""

    def __init__(self) -> None:
        #: Per block the workers that were sent it, first one first.
        self._owners: dict[int, dict[PeerId, None]] = {}
        #: Per worker and block, when it was last sent (a count) and how deep it is.
        self._sent: dict[PeerId, dict[int, tuple[int, int]]] = {}
        self._count = 0

    def insert(self, peer: PeerId, hashes: Sequence[int]) -> None:
        """A prompt was sent to ``peer``."""
        self._count += 1
        sent = self._sent.setdefault(peer, {})
        for depth, block in enumerate(hashes):
            sent[block] = (self._count, -depth)
            self._owners.setdefault(block, {})[peer] = None

    def match(self, hashes: Sequence[int]) -> tuple[int, PeerId | None]:
        """How many leading blocks of a prompt are in the tree, and the deepest one's worker."""
        blocks, owner = 0, None
        for block in hashes:
            owners = self._owners.get(block)
            if not owners:
                break
            blocks, owner = blocks + 1, next(iter(owners))
        return blocks, owner

    def size(self, peer: PeerId) -> int:
        """Blocks in the worker's share."""
        return len(self._sent.get(peer, ()))

    def evict(self, max_blocks: int) -> None:
        """Cut each share to ``max_blocks``: what was longest not sent first, deepest first."""
        for peer, sent in self._sent.items():
            excess = len(sent) - max_blocks
            if excess <= 0:
                continue
            for block in sorted(sent, key=sent.__getitem__)[:excess]:
                del sent[block]
                owners = self._owners[block]
                del owners[peer]
                if not owners:
                    del self._owners[block]
