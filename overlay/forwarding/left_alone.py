"""Which peers are not to be asked before some time, unless there is nobody else.

A peer may say so, when it refuses. And one may fall silent: it took a request, or should have, and
was not heard of again, or only to let it down in the end. Each request would wait for it in vain,
for half a minute say, and it may draw them all, as nobody can check what it says of its speed and
its cache. So it is left alone, each time for twice as long, as long as a ban, until it gives a
whole answer.

A member may bring in any number of others, to fall silent one after the other. So those who have
given this node no whole answer yet, or none to its latest request, are as one: once one of them
has let it down, whoever has is asked first.
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
    #: Of the latest request that it was asked, it gave a whole answer.
    answers: bool = False

    def silence(self, now: float, first_s: float) -> None:
        # Other requests may have waited for it at the same time: that counts once.
        if now >= self.silent_until:
            alone_s = min(first_s * 2 ** min(self.silences, 30), BAN_MAX_S)
            self.silent_until = now + alone_s
            self.silences += 1


class LeftAlone:
    """Pure bookkeeping; `now` is in seconds."""

    def __init__(self) -> None:
        self._known: Recent[PeerId, _Known] = Recent(MEMBERS_MAX)
        #: All who do not answer, or not yet.
        self._newcomers = _Known()

    def refused(self, peer: PeerId, until: float) -> None:
        """The peer refused a request, and asks for no other before ``until``."""
        known = self._of(peer)
        known.refuses_until = max(known.refuses_until, until)

    def fell_silent(self, peer: PeerId, now: float) -> None:
        """The peer was waited for in vain, and is to be left alone."""
        self.let_down(peer, now)
        self._of(peer).silence(now, BAN_S)

    def failed(self, peer: PeerId) -> None:
        """The peer did not answer a request, and said so in time."""
        self._of(peer).answers = False

    def let_down(self, peer: PeerId, now: float) -> None:
        """The peer was waited for in vain, though others may be the cause."""
        known = self._of(peer)
        if not known.answers:
            # Half as long as one of them is left alone: the others have their turn before it.
            self._newcomers.silence(now, BAN_S / 2)
        known.answers = False

    def answered(self, peer: PeerId) -> None:
        """The peer gave a whole answer."""
        known = self._of(peer)
        if not known.answers:
            self._newcomers = _Known()
        known.silences, known.answers = 0, True

    def has(self, peer: PeerId, now: float) -> bool:
        """Whether the peer is not to be asked yet."""
        known = self._known.get(peer)
        return known is not None and now < max(known.refuses_until, known.silent_until)

    def answers(self, peer: PeerId) -> bool:
        """Whether the peer gave a whole answer when it was asked last."""
        known = self._known.get(peer)
        return known is not None and known.answers

    def doubts(self, peer: PeerId, now: float) -> bool:
        """Whether the peer has not answered yet, and one of those let a request down lately."""
        return now < self._newcomers.silent_until and not self.answers(peer)

    def _of(self, peer: PeerId) -> _Known:
        known = self._known.get(peer) or _Known()
        self._known.put(peer, known)
        return known
