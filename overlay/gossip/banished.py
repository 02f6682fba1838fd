"""Origins that are no members any more, and that others may go on telling of for a while."""

from __future__ import annotations

import math
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX
from overlay.recent import Recent
from overlay.wire.anti_entropy import COUNTER_MAX

#: Rounds in which news reach everybody, with time to spare: log2(N) + 4 would do without losses.
NEWS_ROUNDS: Final = 30


class Banished:
    """Whom not to listen to: up to which incarnation, and until when. Times in seconds."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._until: Recent[PeerId, tuple[int, float]] = Recent(MEMBERS_MAX)

    def banish(self, origin: PeerId, incarnation: int | None, now: float) -> None:
        """Do not listen to who has not heard yet that ``origin`` is no member any more.

        Up to ``incarnation``, the latest known. If none is (None), nothing is listened to for as
        long as the news may take to reach everybody.
        """
        _, until_s = self._until.get(origin, (0, now))
        if incarnation is not None:
            self._until.put(origin, (incarnation, math.inf))
        elif until_s <= now:
            self._until.put(origin, (COUNTER_MAX, now + NEWS_ROUNDS * self._interval_s))

    def readmit(self, origin: PeerId) -> None:
        """It has a link again."""
        self._until.pop(origin, None)

    def shuts_out(self, origin: PeerId, incarnation: int, now: float) -> bool:
        """Whether to listen to nobody who tells of this incarnation."""
        banished, until_s = self._until.get(origin, (-1, now))
        return incarnation <= banished and now < until_s
