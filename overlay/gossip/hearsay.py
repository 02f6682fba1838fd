"""What others tell of the mesh's origins, and how much of it is believed.

Nothing in a record shows who wrote it. But each link proves who speaks over it: whoever has a link
is believed about itself, and nobody else against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from overlay.gossip.banished import Banished
from overlay.gossip.effects import Disbelieved, Disputed, Effect, OriginReset, RecordsChanged
from overlay.gossip.liveness import Liveness
from overlay.gossip.own_words import OwnWords
from overlay.gossip.replica import INCARNATION_MAX, Lack, OwnRecords, Replica
from overlay.gossip.replicas import Replicas
from overlay.identity.peer_id import PeerId
from overlay.wire.anti_entropy import DigestEntry, OriginDelta, OwnContents

#: Between two new incarnations for a dispute: with each, all others forget this node for a round.
DISPUTE_ROUNDS: Final = 10
_LATER: Final = "a later incarnation than it says itself"
_EXCESS: Final = "more records than there is room for"
_OTHER: Final = "other records than it says itself"


class Hearsay:
    """Times in seconds, of one monotonic clock."""

    def __init__(
        self,
        own: OwnRecords,
        replicas: Replicas,
        own_words: OwnWords,
        banished: Banished,
        liveness: Liveness,
        interval_s: float,
    ) -> None:
        """It writes to all of these but ``banished``."""
        self._own = own
        self._replicas = replicas
        self._own_words = own_words
        self._banished = banished
        self._liveness = liveness
        self._interval_s = interval_s
        #: When this node may begin a new incarnation again.
        self._rises_s = -math.inf

    def compare(
        self, sender: PeerId, digest: Sequence[DigestEntry], now: float
    ) -> tuple[list[Effect], list[Lack]]:
        """Learn what ``digest`` tells of others, and find what its sender lacks.

        This loop is where gossip spends its time: every origin, several times per round.
        """
        effects = self._heed(sender, digest, now)
        lacks: list[Lack | None] = []
        replicas = self._replicas.by_origin
        kept_back = {sender, *self._replicas.untold()}
        for entry in digest:
            origin, incarnation, heartbeat, version, gc_version = entry
            replica = replicas.get(origin)
            if replica is not None:
                _, known_incarnation, known_heartbeat, known_version, known_gc = replica.known
                if (
                    version == known_version
                    and incarnation == known_incarnation
                    and gc_version == known_gc
                ):
                    # The usual case, in a few steps: one of the two has heard of it later.
                    if heartbeat > known_heartbeat:
                        replica.known = entry
                        replica.note_current(now)
                        effects += self._liveness.heartbeat(origin, now)
                    continue
                effects += self._hear(sender, replica, entry, now)
                if origin not in kept_back:
                    lacks.append(replica.lack_of(entry))
            elif origin == self._own.origin:
                effects += self._defend(sender, entry, entry.heartbeat, now)
                lacks.append(self._own.lack_of(entry))
            elif replica := self._meet(origin, entry.incarnation, now, effects):
                replica.beat(entry)
                replica.seen_version = entry.version
        return effects, [lack for lack in lacks if lack is not None]

    def unmentioned(self, sender: PeerId, digest: Sequence[DigestEntry]) -> list[Lack]:
        """What the sender of a whole ``digest`` lacks of origins that it does not know."""
        kept_back = {sender, *(entry.origin for entry in digest)}
        known = (self._own, *self._replicas.told())
        lacks = [r.lack_of(None) for r in known if r.origin not in kept_back]
        return [lack for lack in lacks if lack is not None]

    def _heed(self, sender: PeerId, digest: Sequence[DigestEntry], now: float) -> list[Effect]:
        """How far it has come, a peer knows best; whatever was told beyond that is forged."""
        incarnation = self._own_words.hear(sender, digest)
        replica = self._replicas.by_origin.get(sender)
        if incarnation is None or replica is None or replica.incarnation < incarnation:
            return []
        _, _, _, version, gc_version = digest[0]
        if replica.incarnation == incarnation and not (
            # Above the last one it can begin no other. Below, what is beyond its word may be true:
            # others' may be quicker.
            incarnation == INCARNATION_MAX and replica.knows_beyond(version, gc_version)
        ):
            replica.seen_version = version
            replica.note_current(now)
            return []
        self._replicas.by_origin[sender] = Replica(sender, incarnation)
        return [OriginReset(sender)]

    def _hear(
        self, sender: PeerId, replica: Replica, entry: DigestEntry, now: float
    ) -> list[Effect]:
        """Learn from an entry of somebody's digest that differs from what is known here."""
        origin, incarnation, heartbeat, version, _ = entry
        _, known_incarnation, known_heartbeat, _, _ = replica.known
        effects: list[Effect] = []
        if incarnation < known_incarnation:
            return effects
        if incarnation > known_incarnation:
            if self._own_words.contradict(sender, origin, incarnation):
                return [Disbelieved(sender, origin, _LATER)]
            replica.restart(incarnation)
            known_heartbeat = 0
            self._liveness.restarted(origin, now)
            effects.append(OriginReset(origin))
        if version > replica.seen_version:
            replica.seen_version = version
        if heartbeat > known_heartbeat:
            replica.beat(entry)
            effects += self._liveness.heartbeat(origin, now)
            replica.note_current(now)
        return effects

    def apply(self, sender: PeerId, deltas: Sequence[OriginDelta], now: float) -> list[Effect]:
        effects: list[Effect] = []
        me, replicas = self._own.origin, self._replicas.by_origin
        for delta in deltas:
            origin = delta.origin
            if origin == me:
                effects += self._defend(sender, delta, 0, now)
                continue
            replica = replicas.get(origin) or self._meet(origin, delta.incarnation, now, effects)
            if replica is None:
                continue
            incarnation = replica.incarnation
            if self._own_words.contradict(sender, origin, delta.incarnation):
                effects.append(Disbelieved(sender, origin, _LATER))
                continue
            applied = self._replicas.apply(replica, delta)
            if applied.excess:
                effects.append(Disbelieved(sender, origin, _EXCESS))
            if applied.reset:
                effects.append(OriginReset(origin))
                if replica.incarnation > incarnation:
                    self._liveness.restarted(origin, now)
            if applied.changes:
                effects.append(RecordsChanged(origin, applied.changes))
                if sender != origin:
                    replica.teller = sender
                replica.note_current(now)
        return effects

    def correct(self, sender: PeerId, own: OwnContents) -> list[Effect]:
        """Who wrote other records than are known here is right: forget these."""
        replica = self._replicas.by_origin.get(sender)
        if replica is None or not replica.differs_from(own):
            return []
        anew = self._replicas.by_origin[sender] = Replica(sender, replica.incarnation)
        anew.beat(replica.known)
        anew.seen_version = own.version
        effects: list[Effect] = [OriginReset(sender)]
        if replica.teller is not None:
            effects.append(Disbelieved(replica.teller, sender, _OTHER))
        return effects

    def _meet(
        self, origin: PeerId, incarnation: int, now: float, effects: list[Effect]
    ) -> Replica | None:
        """A replica of a new origin, if it belongs to the mesh, and that has room for it."""
        if self._banished.shuts_out(origin, incarnation, now):
            return None
        displaced = self._replicas.room_for(origin, self._own_words)
        if displaced == origin:
            return None
        if displaced is not None:
            effects.append(self.forget(displaced))
        self._liveness.mentioned(origin, now)
        return self._replicas.meet(origin, incarnation, now)

    def _defend(
        self, sender: PeerId, claim: DigestEntry | OriginDelta, heartbeat: int, now: float
    ) -> list[Disputed]:
        """Only this node writes its records. Whoever knows more of them than it has written
        knows another past: begin an incarnation above it, so that all take ours for the truth."""
        if not self._own.knows_less_than(claim, heartbeat):
            return []
        if claim.incarnation < INCARNATION_MAX and now >= self._rises_s:
            self._rises_s = now + DISPUTE_ROUNDS * self._interval_s
            self._own.rise_above(claim.incarnation)
        return [Disputed(sender, self._own.incarnation)]

    def forget(self, origin: PeerId) -> OriginReset:
        """Whatever was told of ``origin`` is void."""
        self._liveness.forget(origin)
        self._replicas.drop(origin)
        return OriginReset(origin)
