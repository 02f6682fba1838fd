"""Whether a node is still as slow as it once was.

A node measures its speed while it works. One that was measured at a bad moment would be avoided
from then on, so it would not work, and never be measured again. So the mesh explores: the longer a
slow node has not worked, the more it is taken to be as fast as others, until somebody tries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX
from overlay.routing.cost import Candidate, Rates

#: Half of what makes a node slow is forgotten in this time without work.
HALF_LIFE_S: Final = 600.0


class _Measured(NamedTuple):
    prefill_rate: float
    decode_rate: float
    #: When it was last seen at work, or to have another speed.
    at_s: float


class Speeds:
    """As seen by one node, from its candidates at each decision."""

    def __init__(self) -> None:
        self._measured: dict[PeerId, _Measured] = {}

    def believed(
        self, candidates: Sequence[Candidate], typical: Rates, now: float
    ) -> list[Candidate]:
        """The candidates of a decision at ``now`` (seconds), at the speeds to reckon with."""
        found = []
        for each in candidates:
            # Whoever is no candidate this time (it has just passed a request on, or serves another
            # model) is remembered, or it would seem to be at work all the time.
            measured = self._measured.pop(each.peer, None)
            rates = (each.prefill_rate, each.decode_rate)
            if measured is None or each.running or each.queued or measured[:2] != rates:
                measured = _Measured(*rates, now)
            self._measured[each.peer] = measured
            idle_s = now - measured.at_s
            found.append(_doubted(each, typical, idle_s) if idle_s else each)
        while len(self._measured) > MEMBERS_MAX:
            del self._measured[next(iter(self._measured))]
        return found


def _doubted(slow: Candidate, typical: Rates, idle_s: float) -> Candidate:
    doubt = 1 - 0.5 ** (idle_s / HALF_LIFE_S)

    def believed(rate: float, others: float) -> float:
        # Of times, not of rates: somebody who claims a thousand times our speed would else make us
        # that fast in our own eyes, within seconds.
        return 1 / ((1 - doubt) / rate + doubt / others) if 0 < rate < others else rate

    return slow._replace(
        prefill_rate=believed(slow.prefill_rate, typical.prefill),
        decode_rate=believed(slow.decode_rate, typical.decode),
    )
