"""Consistent hashing with bounded loads, keyed by the beginning of the prompt.

V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018
(arXiv 1608.01350). Nodes and keys are hashed onto a circle; a key belongs to the next node
clockwise whose load is below its capacity, ceil(c * requests / nodes), the arriving one included.

What the paper leaves to its user, and what was chosen:

- the key: the first blocks of the prompt, as LLM gateways do it. 256 tokens is the default of
  SGLang's gateway (`prefix_hash`, prefix_token_count), which also takes c = 1.25.
- loads: what gossip tells. A node without a coordinator has no others.
- points per node: 150, as in SGLang's gateway. More would hardly make the arcs more even.
"""

from __future__ import annotations

import random
from bisect import bisect, insort
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from math import ceil
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.routing.cost import Candidate
from overlay.routing.policy import Question
from overlay.sim.baselines.rule import Rule, load

#: How far above the mean a node's load may be.
LOAD_FACTOR: Final = 1.25
#: Leading blocks of a prompt that are its key.
KEY_BLOCKS: Final = 256 // BLOCK_TOKENS
POINTS_PER_NODE: Final = 150


class Ring:
    """The circle. It learns nodes as they appear, and forgets none: a walk skips who is absent,
    which gives the same owners as a circle without them."""

    def __init__(self, peers: Iterable[PeerId] = ()) -> None:
        self._known: set[PeerId] = set()
        self._points: list[tuple[int, PeerId]] = []
        for peer in peers:
            self.add(peer)

    def add(self, peer: PeerId) -> None:
        """Give a node its points; nothing changes if it has them."""
        if peer in self._known:
            return
        self._known.add(peer)
        for number in range(POINTS_PER_NODE):
            insort(self._points, (_point(bytes(peer) + number.to_bytes(2, "big")), peer))

    def clockwise(self, key: int) -> Iterator[PeerId]:
        """All nodes, each once, from the key's place on."""
        start = bisect(self._points, (_point(key.to_bytes(8, "big")),))
        seen: set[PeerId] = set()
        for step in range(len(self._points)):
            _, peer = self._points[(start + step) % len(self._points)]
            if peer not in seen:
                seen.add(peer)
                yield peer


class BoundedHash(Rule):
    """See the module. The nodes of a run may share one ``ring``: it is the same for all."""

    def __init__(self, ring: Ring, rng: random.Random) -> None:
        self._ring = ring
        self._rng = rng

    def choose(self, question: Question, candidates: Sequence[Candidate], now: float) -> Candidate:
        """See `Rule.choose`. A prompt of less than a block has no key, and goes to any node."""
        if not question.hashes:
            return self._rng.choice(candidates)
        here = {c.peer: c for c in candidates}
        for peer in here:
            self._ring.add(peer)
        requests = 1 + sum(load(c) for c in candidates)
        capacity = ceil(LOAD_FACTOR * requests / len(candidates))
        # A chained hash covers all blocks before it.
        key = question.hashes[:KEY_BLOCKS][-1]
        # Somebody has room: if nobody had, there were more requests than there are.
        return next(
            here[peer]
            for peer in self._ring.clockwise(key)
            if peer in here and load(here[peer]) < capacity
        )


def _point(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
