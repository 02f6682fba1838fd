"""Central rivals: one router that every request passes.

This is generous to them. A real router is one more hop for every request, hears of caches and
loads late, and is missed when it is down. This one answers at no cost, is always there, and what
it knows is true at that moment; the way from the user's node to the chosen one is all that counts.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from overlay.identity.peer_id import PeerId
from overlay.routing.cost import Candidate
from overlay.routing.policy import Policy, Question
from overlay.sim.baselines.rule import Rule, least
from overlay.sim.fleet import Fleet


@runtime_checkable
class Central(Policy, Protocol):
    """A policy that wants to know when the requests that it placed have ended."""

    def ended(self, peer: PeerId, hashes: Sequence[int]) -> None:
        """A request with this prompt, placed at ``peer``, is done, failed or went elsewhere."""
        ...


class Router(ABC):
    """The one router of a run."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.underway = Underway()

    def place(
        self, origin: PeerId, question: Question, candidates: Sequence[Candidate], now: float
    ) -> Candidate:
        """Choose, and note what was sent where."""
        for candidate in candidates:
            if not self.fleet.present(candidate.peer):
                # Requests that a node lost when it failed have no end that anybody tells of.
                self.underway.forget(candidate.peer)
        chosen = self.best(origin, question, candidates, now)
        self.underway.begin(chosen.peer, question.hashes)
        return chosen

    @abstractmethod
    def best(
        self, origin: PeerId, question: Question, candidates: Sequence[Candidate], now: float
    ) -> Candidate:
        """One of ``candidates`` for a user at ``origin``. ``now``: seconds."""


class Cheapest(Router):
    """Sends each request where it costs least; among equals chance decides."""

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        super().__init__(fleet)
        self._rng = rng

    def best(
        self, origin: PeerId, question: Question, candidates: Sequence[Candidate], now: float
    ) -> Candidate:
        """See `Router.best`."""
        return least(candidates, lambda c: self.cost(origin, question, c.peer), self._rng)

    @abstractmethod
    def cost(self, origin: PeerId, question: Question, peer: PeerId) -> float:
        """Of a request from ``origin`` at ``peer``, in whatever unit."""


class AtRouter(Rule):
    """A node's side of a central router; a `Central` policy."""

    def __init__(self, router: Router, me: PeerId) -> None:
        self._router = router
        self._me = me

    def choose(self, question: Question, candidates: Sequence[Candidate], now: float) -> Candidate:
        """See `Rule.choose`."""
        return self._router.place(self._me, question, candidates, now)

    def ended(self, peer: PeerId, hashes: Sequence[int]) -> None:
        """See `Central.ended`."""
        self._router.underway.end(peer, hashes)


def through(router: Router) -> Callable[[PeerId], Policy]:
    """The policies of the nodes behind ``router``."""
    return lambda peer: AtRouter(router, peer)


class Underway:
    """The prompts that were placed and have not ended, per node, as block hashes."""

    def __init__(self) -> None:
        #: How many prompts there have a block, and how many end with it.
        self._blocks: dict[PeerId, Counter[int]] = {}
        self._ends: dict[PeerId, Counter[int]] = {}
        self._total: Counter[PeerId] = Counter()

    def begin(self, peer: PeerId, hashes: Sequence[int]) -> None:
        """A request was placed at ``peer``."""
        if hashes:
            self._blocks.setdefault(peer, Counter()).update(hashes)
            self._ends.setdefault(peer, Counter())[hashes[-1]] += 1
            self._total[peer] += len(hashes)

    def end(self, peer: PeerId, hashes: Sequence[int]) -> None:
        """It ended. Nothing changes if no such prompt is underway there (any more)."""
        ends = self._ends.get(peer)
        if not hashes or ends is None or not ends[hashes[-1]]:
            return
        blocks = self._blocks[peer]
        ends[hashes[-1]] -= 1
        self._total[peer] -= len(hashes)
        for block in hashes:
            blocks[block] -= 1
            if not blocks[block]:
                del blocks[block]

    def forget(self, peer: PeerId) -> None:
        """Nothing is underway at ``peer``."""
        for known in (self._blocks, self._ends, self._total):
            known.pop(peer, None)

    def total_blocks(self, peer: PeerId) -> int:
        """Blocks of all prompts underway at ``peer``; shared ones as often as they are shared."""
        return self._total[peer]

    def distinct_blocks(self, peer: PeerId) -> int:
        """Blocks of all prompts underway at ``peer``, each once."""
        return len(self._blocks.get(peer, ()))

    def match_blocks(self, peer: PeerId, hashes: Sequence[int]) -> int:
        """Leading blocks of a prompt that prompts underway at ``peer`` begin with."""
        blocks = self._blocks.get(peer)
        if not blocks:
            return 0
        # Chained hashes: where one is, all before it are.
        return bisect(hashes, False, key=lambda h: h not in blocks)
