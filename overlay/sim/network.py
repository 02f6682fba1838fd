"""A network with distances, jitter, loss, limited bandwidth and partitions.

Links are streams, as ZeroMQ's are: what is lost is sent again after a while, and nothing
overtakes anything on its way between the same two nodes. Only a partition keeps it from arriving.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: TCP's shortest retransmission timeout (Linux).
_RETRANSMIT_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Links:
    """What all links are like, besides their distance."""

    #: Spread of one way's delay, as a share of it: the deviation of a normal distribution.
    jitter: float = 0.0
    #: Probability that a message has to be sent again.
    loss: float = 0.0
    #: Bits per second of each node's uplink; 0: no limit.
    bandwidth: float = 0.0


class Network:
    """Says when a message arrives. Nodes are numbers; times in seconds."""

    def __init__(self, rtt_s: Sequence[Sequence[float]], links: Links, rng: random.Random) -> None:
        """``rtt_s[a][b]``: round trip between nodes a and b, symmetric."""
        self._rtt_s = rtt_s
        self._links = links
        self._rng = rng
        self._part = [0] * len(rtt_s)
        self._arrived: dict[tuple[int, int], float] = {}
        self._uplink_free = [0.0] * len(rtt_s)

    def rtt_s(self, a: int, b: int) -> float:
        """The undisturbed round trip."""
        return self._rtt_s[a][b]

    def partition(self, part: Sequence[int]) -> None:
        """From now on only nodes with the same number in ``part`` reach each other."""
        self._part = list(part)

    def connected(self, a: int, b: int) -> bool:
        return self._part[a] == self._part[b]

    def arrival(self, sender: int, receiver: int, size: int, now: float) -> float | None:
        """When a message of ``size`` bytes that is sent now arrives; None: never."""
        if not self.connected(sender, receiver):
            return None
        links, leaves = self._links, now
        if links.bandwidth:
            leaves = max(now, self._uplink_free[sender]) + 8 * size / links.bandwidth
            self._uplink_free[sender] = leaves
        delay = self._rtt_s[sender][receiver] / 2
        if links.jitter:
            delay *= max(0.1, self._rng.gauss(1.0, links.jitter))
        while links.loss and self._rng.random() < links.loss:
            delay += max(_RETRANSMIT_S, self._rtt_s[sender][receiver])
        pair = (sender, receiver)
        at = self._arrived[pair] = max(leaves + delay, self._arrived.get(pair, 0.0))
        return at


def uniform(nodes: int, rtt_s: float) -> list[list[float]]:
    """All nodes equally far from each other."""
    return [[0.0 if a == b else rtt_s for b in range(nodes)] for a in range(nodes)]


def scattered(nodes: int, rtt_s: float, rng: random.Random) -> list[list[float]]:
    """Nodes at random places in a square, ``rtt_s`` apart on average."""
    places = [complex(rng.random(), rng.random()) for _ in range(nodes)]
    # Two random points of the unit square are 0.5214 apart on average.
    scale = rtt_s / 0.5214
    return [[scale * abs(a - b) for b in places] for a in places]
