"""Whose grammars may have ended an engine: they are not computed here for a while."""

from __future__ import annotations

from overlay.limits import BAN_MAX_S, BAN_S


class Enders:
    """Branches, as in `models.engine.Client`. Times in seconds, of one monotonic clock.

    Of all whose grammars an engine had when it failed, one was the cause as a rule; which, nobody
    can tell. The others are a minute without, and who does so again and again an hour.
    """

    def __init__(self) -> None:
        #: Until when each waits, and how long that is in all.
        self._waits: dict[bytes, tuple[float, float]] = {}

    def failed(self, branch: bytes, now: float) -> None:
        """An engine failed at a request of the branch with a grammar."""
        until, pause_s = self._waits.get(branch, (now, 0.0))
        if now < until:
            return  # At several at one time.
        again = now < until + BAN_MAX_S
        pause_s = min(BAN_MAX_S, max(BAN_S, 2 * pause_s if again else 0.0))
        self._waits[branch] = now + pause_s, pause_s

    def waits(self, branch: bytes, now: float) -> bool:
        until, _ = self._waits.get(branch, (now, 0.0))
        return now < until
