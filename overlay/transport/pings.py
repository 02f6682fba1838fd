"""What the pings of one link tell: how long the way is, and what the peer has read for sure."""

from __future__ import annotations

import secrets
from typing import Final

from overlay.limits import PING_INTERVAL_S, RTT_INTERVAL_S
from overlay.recent import Recent

#: Who answers no ping for so long reads nothing, whatever it says: what is sent to it piles up.
DEAF_S: Final = 30.0
#: Pings whose answer is still of interest.
_OPEN_MAX: Final = int(DEAF_S / PING_INTERVAL_S)
_NONCE_BITS: Final = 62
#: Weight of the latest round trip in the smoothed one: twice TCP's (RFC 6298), which measures more
#: often.
_RTT_WEIGHT: Final = 1 / 4
#: While so much may lie unread, it is asked each time.
_UNREAD_BYTES: Final = 1 << 20


class Pings:
    """``now`` is monotonic time in seconds; ``sent_bytes`` is what was sent on the link so far."""

    def __init__(self, now: float) -> None:
        #: Smoothed; None until the first is measured.
        self.rtt_ms: float | None = None
        #: Of what was sent, what the peer has read for sure.
        self.read_bytes = 0
        #: When each was sent, and what before it, by nonces that nobody guesses who has not read
        #: them.
        self._open: Recent[int, tuple[float, int]] = Recent(_OPEN_MAX)
        self._pinged = self._answered = now

    def up(self, now: float) -> None:
        """From here on answers are to be expected."""
        self._answered = now

    def held_up(self, seconds: float, now: float) -> None:
        """This process was: answers that came meanwhile may not be read yet."""
        self._answered = min(now, self._answered + seconds)

    def deaf(self, now: float) -> bool:
        """Whether the peer has answered none for too long."""
        return now - self._answered > DEAF_S

    def due(self, now: float, sent_bytes: int) -> bool:
        """Whether one is to be sent, whatever is heard of the peer."""
        # The next tick would be too late.
        unmeasured = now - self._pinged > RTT_INTERVAL_S - PING_INTERVAL_S
        return unmeasured or sent_bytes - self.read_bytes > _UNREAD_BYTES

    def sent(self, now: float, sent_bytes: int) -> int:
        """One leaves; returns its nonce."""
        nonce = secrets.randbits(_NONCE_BITS)
        self._pinged = now
        self._open.put(nonce, (now, sent_bytes))
        return nonce

    def answered(self, nonce: int, now: float) -> float | None:
        """The smoothed round trip; None if it answers no ping."""
        sent = self._open.pop(nonce, None)
        if sent is None:
            return None
        at, self.read_bytes = sent
        self._answered = now
        latest_ms = (now - at) * 1000
        before_ms = latest_ms if self.rtt_ms is None else self.rtt_ms
        self.rtt_ms = before_ms + _RTT_WEIGHT * (latest_ms - before_ms)
        return self.rtt_ms
