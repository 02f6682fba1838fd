"""Rivals that look at load or at nothing, never at caches."""

from __future__ import annotations

import random
from collections.abc import Sequence

from overlay.identity.peer_id import PeerId
from overlay.routing.cost import Candidate
from overlay.routing.policy import Question
from overlay.sim.baselines.rule import Rule, least, load, own_of
from overlay.sim.fleet import Fleet


class Random(Rule):
    """Any node, all with the same chance."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, question: Question, candidates: Sequence[Candidate], now: float) -> Candidate:
        """See `Rule.choose`."""
        return self._rng.choice(candidates)


class LocalOnly(Random):
    """Every node for itself, as without a mesh; any other where this one does not serve."""

    def choose(self, question: Question, candidates: Sequence[Candidate], now: float) -> Candidate:
        """See `Rule.choose`."""
        return own_of(candidates) or super().choose(question, candidates, now)


class RoundRobin(Rule):
    """One node after the other, as each origin counts for itself.

    Origins start at random places: in step they would all send to the same node at a time.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last: PeerId | None = None

    def choose(self, question: Question, candidates: Sequence[Candidate], now: float) -> Candidate:
        """See `Rule.choose`."""
        if self._last is None:
            chosen = self._rng.choice(candidates)
        else:
            last = self._last
            # Nodes come and go, so the turn is the next one's in the order of ids.
            chosen = min(candidates, key=lambda c: (c.peer <= last, c.peer))
        self._last = chosen.peer
        return chosen


class LeastLoaded(Rule):
    """The node with the fewest requests, as far as gossip has told; ties go to chance.

    A node adds what it has itself sent since the last news, as every balancer does: without it,
    all requests of one gossip round would go to one node.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, question: Question, candidates: Sequence[Candidate], now: float) -> Candidate:
        """See `Rule.choose`."""
        return least(candidates, load, self._rng)


class PowerOfTwo(Rule):
    """Two nodes at random, and of them the one with fewer requests; ties go to chance.

    M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10),
    2001. There, both are asked for their queue's length at that moment. Asking takes a round trip
    to the farther one; here it is free, and still the answer is the truth of that moment.
    """

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        self._fleet = fleet
        self._rng = rng

    def choose(self, question: Question, candidates: Sequence[Candidate], now: float) -> Candidate:
        """See `Rule.choose`."""
        asked = self._rng.sample(candidates, min(2, len(candidates)))
        return least(asked, lambda c: self._fleet.present(c.peer), self._rng)
