"""Which peers are not to be asked before some time, unless there is nobody else.

A peer may say so, when it refuses. And one may fall silent: it took a request, or should have, and
was not heard of again, or only to let it down in the end. Each request would wait for it in vain,
for half a minute say, and it may draw them all, as nobody can check what it says of its speed and
its cache. So it is left alone, each time for twice as long, as long as a ban, until it gives a
whole answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from overlay.identity.peer_id import PeerId
from overlay.limits import BAN_MAX_S, BAN_S, MEMBERS_MAX
from overlay.recent import Recent


@dataclass(slots=True)
class _Known:
    refuses_until: float = -math.inf
    silent_until: float = -math.inf
    #: How often it fell silent since its last whole answer.
    silences: int = 0


class LeftAlone:
    """Pure bookkeeping; `now` is in seconds."""

    def __init__(self) -> None:
        self._known: Recent[PeerId, _Known] = Recent(MEMBERS_MAX)

    def refused(self, peer: PeerId, until: float) -> None:
        """The peer refused a request, and asks for no other before ``until``."""
        known = self._of(peer)
        known.refuses_until = max(known.refuses_until, until)

    def fell_silent(self, peer: PeerId, now: float) -> None:
        """The peer was waited for in vain."""
        known = self._of(peer)
        # Other requests may have waited for it at the same time: that counts once.
        if now >= known.silent_until:
            known.silent_until = now + min(BAN_S * 2 ** min(known.silences, 30), BAN_MAX_S)
            known.silences += 1

    def answered(self, peer: PeerId) -> None:
        """The peer gave a whole answer."""
        if peer in self._known:
            self._known[peer].silences = 0

    def has(self, peer: PeerId, now: float) -> bool:
        """Whether the peer is not to be asked yet."""
        known = self._known.get(peer)
        return known is not None and now < max(known.refuses_until, known.silent_until)

    def _of(self, peer: PeerId) -> _Known:
        known = self._known.get(peer) or _Known()
        self._known.put(peer, known)
        return known
