"""With whom a round opens exchanges, and which of them tell a whole digest."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Final

from overlay.gossip.compact import CompactDigest
from overlay.gossip.effects import Send
from overlay.gossip.liveness import Liveness
from overlay.gossip.own_words import OwnWords
from overlay.identity.branches import Lineage, Turns, Way
from overlay.identity.peer_id import PeerId
from overlay.wire.anti_entropy import DigestEntry, Syn

#: Exchanges opened per round.
FANOUT: Final = 3
#: The share of exchanges that are whole while some origins are gone: compact digests leave those
#: out. What one node knows of the dead and another does not need not spread fast.
WHOLE_SHARE: Final = 1 / 64


#: Intervals after which a peer of whose records nothing was heard is asked itself, though it has a
#: link: chance and the others tell of each within three or four, among hundreds, too.
NEGLECTED_INTERVALS: Final = 6.0
#: Intervals for which all exchanges are whole after two nodes took other origins for alive, or one
#: changed its mind: others are about to, and a compact digest that cannot be read costs a message.
UNLIKE_INTERVALS: Final = 2.5


class Opener:
    """Times in seconds."""

    def __init__(self, interval_s: float, rng: random.Random) -> None:
        self._interval_s = interval_s
        self._rng = rng
        self._fingerprint = b""
        self._unlike_s = -math.inf
        #: Who let in each peer that has a link, and since when it has it.
        self._linked: dict[PeerId, tuple[Way, float]] = {}
        self._turns = Turns()

    def linked(self, peer: PeerId, lineage: Lineage, now: float) -> None:
        """The peer has a link from now on."""
        self._linked[peer] = (*lineage, peer), now

    def unlinked(self, peer: PeerId) -> None:
        """It has none any more."""
        self._linked.pop(peer, None)

    def unreadable(self, now: float) -> None:
        """A peer's compact digest cannot be read here."""
        self._unlike_s = now

    def partners(self, linked: Sequence[PeerId], liveness: Liveness) -> list[PeerId]:
        """A few live peers, and now and then one that is taken for dead."""
        live: list[PeerId] = []
        dead: list[PeerId] = []
        for peer in sorted(linked):
            (dead if liveness.gone(peer) else live).append(peer)
        partners = self._rng.sample(live, min(FANOUT, len(live)))
        # As in Cassandra: so that a healed partition is noticed.
        if dead and self._rng.random() < len(dead) / (len(live) + 1):
            partners.append(self._rng.choice(dead))
        return partners

    def neglected(self, age_s: Callable[[PeerId, float], float], now: float) -> list[PeerId]:
        """A peer with a link of whose records nothing was heard for long, if there is any.

        Where most links are to a crowd that says nothing of others, or nothing at all, hardly
        anybody else becomes a partner by chance. ``age_s``: since when a peer's records are known
        to be current.
        """
        most_s = NEGLECTED_INTERVALS * self._interval_s
        found = [
            way
            for peer, (way, since_s) in self._linked.items()
            if now - since_s > most_s and age_s(peer, now) > most_s
        ]
        first = self._turns.of(found)[:1]
        for way in first:
            self._turns.take(way, now)
        return [way[-1] for way in first]

    def open(
        self,
        partners: Sequence[PeerId],
        whole: tuple[DigestEntry, ...],
        compact: CompactDigest,
        words: OwnWords,
        now: float,
    ) -> list[Send]:
        """What to say to each: a ``whole`` digest, or ``compact``, which is that of the living."""
        if compact.fingerprint != self._fingerprint:
            self._fingerprint = compact.fingerprint
            self._unlike_s = now
        unlike = now - self._unlike_s < UNLIKE_INTERVALS * self._interval_s
        some_gone = len(compact) < len(whole)
        whole_syn, compact_syn = Syn(whole), compact.syn()
        sends = []
        for peer in partners:
            # Who is not among the living here is so for itself, and could not read this digest.
            readable = peer in compact and words.reads_compact(peer) and not unlike
            tell_whole = not readable or (some_gone and self._rng.random() < WHOLE_SHARE)
            sends.append(Send(peer, whole_syn if tell_whole else compact_syn))
        return sends
