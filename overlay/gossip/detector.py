"""Phi accrual failure detection (Hayashibara et al. 2004): how surprising is a peer's silence?

phi = -log10(P(a live peer is silent for this long)), taking the intervals between its signs of
life to be normally distributed as the recent ones were.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from overlay.limits import GOSSIP_INTERVAL_S

#: Intervals remembered: a minute or so, so that a peer's changed rhythm is soon learnt.
WINDOW: Final = 60
#: Deviation, in intervals: at least this (a busy machine's jitter must not look like death)...
_STD_MIN = 0.4
#: ...and at most this (a peer that was erratic must still be found dead within seconds).
_STD_MAX = 1.0
#: Silence, in intervals, that is expected now and then, of a machine busy with a long batch.
_PAUSE = 1.0
#: Signs of life closer than this, in intervals, are one sign: a new link and a heartbeat, say.
_BURST = 0.5


class PhiDetector:
    """One peer's rhythm. Times in seconds, of the driver's clock."""

    def __init__(self, now: float, interval_s: float = GOSSIP_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._heard_s = now
        self._sampled_s = now
        self._intervals: deque[float] = deque([interval_s], maxlen=WINDOW)

    @property
    def heard_s(self) -> float:
        """When the last sign of life came."""
        return self._heard_s

    def heard(self, now: float) -> None:
        """A sign of life."""
        self._heard_s = max(self._heard_s, now)
        interval = now - self._sampled_s
        if interval >= _BURST * self._interval_s:
            self._intervals.append(interval)
            self._sampled_s = now

    def excuse(self, pause_s: float, now: float) -> None:
        """This node itself did not run for ``pause_s``: that silence says nothing of the peer.

        What came meanwhile may have been read before this is known.
        """
        self._heard_s = min(now, self._heard_s + pause_s)
        self._sampled_s = min(now, self._sampled_s + pause_s)

    def resume(self, now: float) -> None:
        """A sign of life after an absence, which was no interval of its rhythm."""
        self._heard_s = self._sampled_s = now

    def phi(self, now: float, *, pause: bool = True) -> float:
        """How surprising the silence is; ``pause`` False makes no allowance for a long batch."""
        count = len(self._intervals)
        mean = min(sum(self._intervals) / count, 2 * self._interval_s)
        variance = sum((i - mean) ** 2 for i in self._intervals) / count
        std = min(
            max(math.sqrt(variance), _STD_MIN * self._interval_s), _STD_MAX * self._interval_s
        )
        expected = mean + (_PAUSE * self._interval_s if pause else 0.0)
        y = (now - self._heard_s - expected) / std
        # erfc underflows to 0 beyond 38 deviations, where the answer has long been clear.
        later = 0.5 * math.erfc(y / math.sqrt(2))
        return -math.log10(later) if later > 0.0 else math.inf
