"""How much may come, or go, in a time: a rate, and a burst above it.

Pure: times are in seconds, of one monotonic clock.
"""

from __future__ import annotations

from typing import Final

#: Nobody waits for less: sums of times are no more exact than that after a month.
_ROUNDING_S: Final = 1e-8


class Bucket:
    """A token bucket that may be overdrawn by what is taken last, and then has to be waited for.

    Kept as the time at which it is full again, as in the generic cell rate algorithm (ITU-T I.371):
    nothing has to be filled up first.
    """

    __slots__ = ("_burst", "_full_at", "_per_s")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._full_at = now

    def take(self, amount: float, now: float) -> None:
        self._full_at = (self._full_at if self._full_at > now else now) + amount / self._per_s

    def wait_s(self, now: float) -> float:
        """Until something may be taken."""
        wait_s = self._full_at - now - self._burst / self._per_s
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def left(self, now: float) -> float:
        """How much of the burst there is, from 0 to 1."""
        return max(0.0, min(self._burst, self._left(now)) / self._burst)

    def full(self, now: float) -> bool:
        return self._full_at <= now

    def change(self, per_s: float, burst: float, now: float) -> None:
        """Something else is granted from now on."""
        left = min(burst, self._left(now))
        self._per_s, self._burst = per_s, burst
        self._full_at = now + (burst - left) / per_s

    def _left(self, now: float) -> float:
        return self._burst - max(0.0, self._full_at - now) * self._per_s
