"""How much later than they let expect peers answer: what can be checked of all that they tell.

Who claims to be fast, idle and warm draws every request. If it is silent then, it is left alone
(`overlay.forwarding.left_alone`). If it answers, and far too late, so it is expected to do again.
Estimates err, of loads that are a round old above all, but hardly ever by what counts here: honest
peers are judged by what they tell.
"""

from __future__ import annotations

from statistics import fmean
from typing import Final, NamedTuple

from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX
from overlay.recent import Recent

#: What took so many times longer than was expected...
GROSS: Final = 10.0
#: ...and so much longer, is late.
LATE_MS_MIN: Final = 3000.0
#: Who passes a request on knows little more of the other than who sent it.
LATE_MS_MIN_PASSED_ON: Final = 15_000.0
#: Of so many answers, the latest ones, so many have to be late: an owner's long prompt may come
#: before any guest's.
ANSWERS: Final = 4
LATE_ANSWERS_MIN: Final = 3
#: Half of it is forgotten in this time.
HALF_LIFE_S: Final = 600.0


def late_ms(expected_ms: float, actual_ms: float, *, passed_on: bool) -> float:
    """By how much it is late, if it is so grossly; else 0."""
    late = actual_ms - expected_ms
    least = LATE_MS_MIN_PASSED_ON if passed_on else LATE_MS_MIN
    return late if late > least and actual_ms > GROSS * expected_ms else 0.0


class _Known(NamedTuple):
    #: Of the latest answers; 0 for those in time.
    late_ms: tuple[float, ...]
    at_s: float


class Lateness:
    """Of peers, as seen by one node. Times in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._known: Recent[PeerId, _Known] = Recent(MEMBERS_MAX)

    def of(self, peer: PeerId, now: float) -> float:
        """How much later than it lets expect, in milliseconds, the peer is expected to answer."""
        known = self._known.get(peer)
        if known is None or sum(late > 0 for late in known.late_ms) < LATE_ANSWERS_MIN:
            return 0.0
        return fmean(known.late_ms) * float(0.5 ** ((now - known.at_s) / HALF_LIFE_S))

    def answered(self, peer: PeerId, late: float, now: float) -> None:
        """The peer was so late, in milliseconds; 0: it was in time."""
        before = self._known.pop(peer, None)
        lates = (*(before.late_ms if before else ()), late)[-ANSWERS:]
        if any(lates):
            self._known.put(peer, _Known(lates, now))
