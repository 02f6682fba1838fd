"""Measured speeds, smoothed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: Work older than this, in busy seconds, counts half.
HALF_LIFE_S: Final = 4.0
#: With each doubt a rate is this part slower than it is taken for. A disk that woke up for its
#: first piece, at a fiftieth of the speed of computing, is tried again with the 38th.
DOUBT: Final = 0.9


class Rate:
    """Amount per busy second, smoothed; idle time does not lower it."""

    def __init__(self) -> None:
        self._amount = 0.0
        self._seconds = 0.0

    def add(self, amount: float, seconds: float) -> None:
        fade = 0.5 ** (seconds / HALF_LIFE_S)
        self._amount = self._amount * fade + amount
        self._seconds = self._seconds * fade + seconds

    def doubt(self) -> None:
        """It was too slow to be measured now: take it for a little faster than it was."""
        self._seconds *= DOUBT

    @property
    def per_second(self) -> float:
        """0 before anything was measured."""
        return self._amount / self._seconds if self._seconds > 0 else 0.0

    def beats(self, other: Rate) -> bool:
        """Whether it is faster than the other, as far as both are known."""
        return not self._seconds or self.per_second > other.per_second


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast this machine gets tokens into the KV cache, in each way: tokens per second."""

    prefill: Rate = field(default_factory=Rate)
    from_ram: Rate = field(default_factory=Rate)
    from_disk: Rate = field(default_factory=Rate)
