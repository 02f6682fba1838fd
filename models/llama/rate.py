"""Smoothed speed of work that comes in bursts."""

from __future__ import annotations

from typing import Final

#: Work older than this, in busy seconds, counts half.
HALF_LIFE_S: Final = 4.0


class Rate:
    """Amount per busy second; idle time does not lower it."""

    def __init__(self) -> None:
        self._amount = 0.0
        self._seconds = 0.0

    def add(self, amount: float, seconds: float) -> None:
        fade = 0.5 ** (seconds / HALF_LIFE_S)
        self._amount = self._amount * fade + amount
        self._seconds = self._seconds * fade + seconds

    @property
    def per_second(self) -> float:
        """0 before anything was measured."""
        return self._amount / self._seconds if self._seconds > 0 else 0.0
