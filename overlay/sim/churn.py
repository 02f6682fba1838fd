"""What goes wrong in a simulated mesh: nodes that go and come back, a network that falls apart."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Gone(NamedTuple):
    """A node stops, and starts again at ``back_s`` with an empty cache. ``goodbye``: it says so
    before, as when its user stops it; else it just falls silent, as when a lid is closed."""

    at_s: float
    node: int
    back_s: float = math.inf
    goodbye: bool = False


class Split(NamedTuple):
    """Nodes reach only those with the same number in ``part``, until ``heals_s``."""

    at_s: float
    part: tuple[int, ...]
    heals_s: float = math.inf


Fault = Gone | Split


@dataclass(frozen=True, slots=True)
class Churn:
    """How often that happens, by chance. Times in seconds, and means of exponential ones."""

    #: A node runs for so long, and then is away for so long.
    up_s: float = math.inf
    away_s: float = 60.0
    #: Share of the nodes that go with a goodbye.
    goodbyes: float = 0.5
    #: So long after the last one has healed, the network falls into two halves for so long.
    whole_s: float = math.inf
    split_s: float = 30.0

    def faults(self, rng: random.Random, nodes: int) -> Iterator[Fault]:
        """In order of ``at_s``, without end; none if nothing ever goes wrong."""
        going = (self._goings(random.Random(rng.random()), node) for node in range(nodes))
        return heapq.merge(
            *going, self._splits(random.Random(rng.random()), nodes), key=lambda fault: fault.at_s
        )

    def _goings(self, rng: random.Random, node: int) -> Iterator[Fault]:
        back_s = 0.0
        while self.up_s < math.inf:
            at_s = back_s + rng.expovariate(1 / self.up_s)
            back_s = at_s + rng.expovariate(1 / self.away_s)
            yield Gone(at_s, node, back_s, rng.random() < self.goodbyes)

    def _splits(self, rng: random.Random, nodes: int) -> Iterator[Fault]:
        heals_s = 0.0
        while self.whole_s < math.inf:
            at_s = heals_s + rng.expovariate(1 / self.whole_s)
            heals_s = at_s + rng.expovariate(1 / self.split_s)
            half = rng.sample(range(nodes), nodes // 2)
            yield Split(at_s, tuple(int(node in half) for node in range(nodes)), heals_s)
