"""The cells of the no-regret grid: which meshes and workloads the policies are compared in.

Requests are single questions under 20 prefixes of 600 tokens (the `zipf` workload). A full grid of
all axes is far too large, so:

- 8 nodes: every combination of RTT, skew, load and cache; or a third of them, in which each three
  of the axes meet in all combinations (a Latin hypercube of the levels modulo 3).
- 2 and 24 nodes: every combination, or every other one, of RTT and skew. Loads and caches take
  turns, so that these two meet in all combinations as well.
- 100 nodes: four cells that lie far apart, for one takes as long as all of a dozen smaller ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Final

from overlay.sim.run import Scenario
from overlay.sim.workloads.parameters import Span
from overlay.sim.workloads.zipf import Zipf

RTTS_MS: Final = (0.2, 20.0, 200.0, 2000.0)
SKEWS: Final = (0.0, 0.8, 1.2, 1.6)
LOADS: Final = (0.2, 0.6, 0.95)
CACHES: Final = (0.1, 0.4, 1.0)
NODES: Final = (2, 8, 24, 100)
GROUPS: Final = 20
PREFIX_TOKENS: Final = 600
QUESTION_TOKENS: Final = Span(30, 60)
ANSWER_TOKENS: Final = 32
#: What the mesh is asked again and again: a prompt of each group, with its answer.
WORKING_SET_TOKENS: Final = GROUPS * (PREFIX_TOKENS + sum(QUESTION_TOKENS) // 2 + ANSWER_TOKENS)
#: Requests that count. Two nodes cost little time, and chance means much to them.
REQUESTS: Final = {2: 3000, 8: 1200, 24: 1200, 100: 2000}
#: Before them, each node is asked so often for each group, on average.
WARM_UP_ROUNDS: Final = 3


class Extent(StrEnum):
    """How many cells."""

    QUICK = "quick"
    THIRD = "third"
    FULL = "full"


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """``load``: as in `Scenario`. ``cache``: each node's, as a share of the working set."""

    nodes: int
    rtt_ms: float
    skew: float
    load: float
    cache: float

    def scenario(self) -> Scenario:
        """What is simulated."""
        return Scenario(
            workload=Zipf(
                groups=GROUPS,
                skew=self.skew,
                prefix=Span(PREFIX_TOKENS, PREFIX_TOKENS),
                question=QUESTION_TOKENS,
                answer=ANSWER_TOKENS,
            ),
            nodes=self.nodes,
            rtt_ms=self.rtt_ms,
            requests=REQUESTS[self.nodes],
            warm_up=WARM_UP_ROUNDS * self.nodes * GROUPS,
            load=self.load,
            cells=round(self.cache * WORKING_SET_TOKENS),
        )


#: A corner each of: nothing to win, hotspots, far apart, small caches.
_QUICK: Final = (
    Cell(2, 20.0, 0.8, 0.6, 0.4),
    Cell(8, 0.2, 1.6, 0.95, 1.0),
    Cell(8, 20.0, 0.8, 0.95, 0.1),
    Cell(8, 2000.0, 0.0, 0.6, 1.0),
)
_HUNDRED: Final = (
    Cell(100, 0.2, 1.6, 0.95, 0.4),
    Cell(100, 20.0, 0.8, 0.6, 0.4),
    Cell(100, 200.0, 1.2, 0.95, 0.1),
    Cell(100, 2000.0, 0.0, 0.6, 1.0),
)

#: The settings of the paper's two findings: everybody's cache holds everything, and the load is
#: moderate. Over distance without any skew, and over skew where distance hardly matters.
FINDINGS_RTTS_MS: Final = (0.2, 2.0, 20.0, 60.0, 200.0, 600.0, 2000.0)
FINDINGS_SKEWS: Final = (0.0, 0.4, 0.8, 1.2, 1.6)
OVER_RTT: Final = tuple(Cell(8, rtt_ms, 0.0, 0.6, 1.0) for rtt_ms in FINDINGS_RTTS_MS)
OVER_SKEW: Final = tuple(Cell(8, 20.0, skew, 0.6, 1.0) for skew in FINDINGS_SKEWS)


def cells(extent: Extent, nodes: Sequence[int] = NODES) -> list[Cell]:
    """The cells of a grid, of meshes with so many ``nodes`` only."""
    if extent is Extent.QUICK:
        chosen = list(_QUICK)
    else:
        chosen = [*_eight(extent), *_by_turns(2, 1), *_by_turns(24, 2), *_HUNDRED]
    return [cell for cell in chosen if cell.nodes in nodes]


def _eight(extent: Extent) -> list[Cell]:
    found = []
    for (r, rtt_ms), (s, skew), (n, load), (c, cache) in product(
        *(enumerate(axis) for axis in (RTTS_MS, SKEWS, LOADS, CACHES))
    ):
        if extent is Extent.FULL or (r + s + n + c) % 3 == 0:
            found.append(Cell(8, rtt_ms, skew, load, cache))
    return found


def _by_turns(nodes: int, step: int) -> list[Cell]:
    """Each combination of RTT and skew, or every ``step``-th of them."""
    return [
        Cell(nodes, rtt_ms, skew, LOADS[(r + s) % 3], CACHES[(r + 2 * s) % 3])
        for (r, rtt_ms), (s, skew) in product(enumerate(RTTS_MS), enumerate(SKEWS))
        if (r + s) % step == 0
    ]
