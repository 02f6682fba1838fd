"""Membership and anti-entropy: Scuttlebutt (van Renesse et al. 2008) with the details of chitchat.

Each node writes records about itself and keeps replicas of everybody else's. Once per round it
opens an exchange with a few linked peers: Syn (what I know) -> SynAck (what you lack, and what I
know otherwise) -> GossipAck (what you lack). As a rule, Syn and SynAck are compact (`compact`): who
cannot read a compact one opens a whole exchange itself. Heartbeats travel in the digests, so that
peers without a link are heard of too; who is UP is each node's own judgement (`liveness`).

Sans-IO: `tick` and `receive` return effects; `next_deadline` says when to tick.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence, Set
from typing import Final

from overlay.errors import LocalProtocolError
from overlay.gossip.banished import Banished
from overlay.gossip.compact import CompactDigest
from overlay.gossip.effects import (
    Disbelieved,
    Disputed,
    Effect,
    GossipMessage,
    OriginReset,
    PeerState,
    RecordsChanged,
    Send,
)
from overlay.gossip.fitting import fit
from overlay.gossip.liveness import Liveness
from overlay.gossip.opening import Opener
from overlay.gossip.own_words import OwnWords
from overlay.gossip.replica import INCARNATION_MAX, Lack, OwnRecords, Replica, check
from overlay.gossip.replicas import Replicas
from overlay.identity.peer_id import PeerId
from overlay.limits import DELTA_BYTES_MAX, FORGET_PEER_S, GOSSIP_INTERVAL_S, UNPROVEN_S
from overlay.wire.messages import (
    CompactSyn,
    CompactSynAck,
    DigestEntry,
    GossipAck,
    OriginDelta,
    Syn,
    SynAck,
)

#: Rounds are this much shorter or longer at random, so that nodes do not fall into step.
JITTER: Final = 0.2
#: Between two new incarnations for a dispute: with each, all others forget this node for a round.
DISPUTE_ROUNDS: Final = 10
#: Incarnations start as milliseconds since 1970, below this for centuries.
INCARNATION_START_MAX: Final = 1 << 44
_LATER: Final = "a later incarnation than it says itself"
_EXCESS: Final = "more records than there is room for"


class Gossip:
    """What this node knows of the mesh. Times in seconds, of one monotonic clock."""

    def __init__(
        self,
        me: PeerId,
        incarnation: int,
        rng: random.Random,
        now: float,
        *,
        interval_s: float = GOSSIP_INTERVAL_S,
    ) -> None:
        """``incarnation``: milliseconds since 1970 at the start, so that a restart counts on.

        Raises LocalProtocolError for another unit.
        """
        if not 0 < incarnation < INCARNATION_START_MAX:
            raise LocalProtocolError(f"incarnation {incarnation} is not in milliseconds")
        self._rng = rng
        self._interval_s = interval_s
        self._own = OwnRecords(me, incarnation)
        self._replicas = Replicas()
        self._own_words = OwnWords()
        self._banished = Banished(interval_s)
        self._liveness = Liveness(interval_s)
        self._opener = Opener(interval_s, rng)
        self._ticked_s = self._round_s = now
        #: When it may begin a new incarnation again.
        self._rises_s = now

    # --- What this node says of itself --------------------------------------------------------

    @property
    def me(self) -> PeerId:
        return self._own.origin

    def set(self, key: bytes, value: bytes, now: float) -> None:
        """Publish a record. Does nothing if it is so already. Raises LocalProtocolError."""
        self._own.write(key, value, now)

    def delete(self, key: bytes, now: float) -> None:
        """Withdraw a record. Does nothing if there is none."""
        self._own.write(key, None, now)

    # --- What it knows ------------------------------------------------------------------------

    def records(self, origin: PeerId) -> Mapping[bytes, bytes]:
        """A copy of the live records of ``origin`` (this node's own included)."""
        replica = self._replica(origin)
        return replica.records() if replica else {}

    def record(self, origin: PeerId, key: bytes) -> bytes | None:
        """One live record of ``origin``, if it is known."""
        replica = self._replica(origin)
        return replica.record(key) if replica else None

    def incarnation(self, origin: PeerId) -> int | None:
        """The latest known incarnation; None for an unknown origin."""
        replica = self._replica(origin)
        return replica.incarnation if replica else None

    def states(self) -> dict[PeerId, PeerState]:
        """This node's judgement of all peers ever heard of and not forgotten, without itself."""
        return {peer: self._liveness.state(peer) for peer in self._liveness.peers()}

    def age_s(self, origin: PeerId, now: float) -> float:
        """Since the records of ``origin`` were last known to be current; infinite if never."""
        replica = self._replicas.by_origin.get(origin)
        return now - replica.current_s if replica else math.inf

    def proven(self, origin: PeerId) -> bool:
        """Whether ``origin`` is known to be a member; who is not may be made up."""
        return self._replicas.proven(origin)

    # --- Time ---------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When to call `tick`, at the latest."""
        return self._round_s

    def tick(self, now: float, linked: Sequence[PeerId]) -> list[Effect]:
        """Judge silences; when a round is due, open exchanges with some of the linked peers."""
        silent_s = now - self._ticked_s
        self._ticked_s = now
        if silent_s > 2 * self._interval_s:
            # We were stalled, not they: a suspended laptop must not declare everybody dead.
            self._liveness.excuse(silent_s - self._interval_s, now)
        effects: list[Effect] = [*self._liveness.judge(now, self._own_words), *self._forget(now)]
        self._own.collect(now)
        self._replicas.weigh()
        if now < self._round_s:
            return effects
        self._round_s = now + self._interval_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
        self._own.live_on()
        partners = self._opener.partners(linked, self._liveness)
        digest, compact = self._digest(), self._compact()
        return [*effects, *self._opener.open(partners, digest, compact, self._own_words, now)]

    # --- What others say ----------------------------------------------------------------------

    def receive(self, sender: PeerId, message: GossipMessage, now: float) -> list[Effect]:
        """Take part in an exchange. Raises RemoteProtocolError; then nothing was taken in."""
        match message:
            case Syn(digest):
                check(digest, ())
                effects, lacks = self._compare(sender, digest, now)
                lacks += self._unmentioned(sender, digest)
                deltas = fit(lacks, DELTA_BYTES_MAX, self._rng)
                told = set(digest)
                mine = self._digest({entry.origin for entry in digest})
                otherwise = tuple(entry for entry in mine if entry not in told)
                effects.append(Send(sender, SynAck(otherwise, deltas)))
            case CompactSyn():
                entries = self._compact().read(message)
                if entries is None:
                    self._opener.unreadable(now)
                    return [Send(sender, Syn(self._digest()))]
                entries.sort(key=lambda entry: entry.origin != sender)
                effects, lacks = self._compare(sender, entries, now)
                deltas = fit(lacks, DELTA_BYTES_MAX, self._rng)
                effects.append(Send(sender, self._compact().answer(message, deltas)))
            case SynAck():
                effects = self._answered(sender, message, now)
            case CompactSynAck():
                effects = self._answered(sender, self._compact().read_answer(message), now)
            case GossipAck(deltas):
                check((), deltas)
                effects = self._apply(sender, deltas, now)
        return effects

    def alive(self, peer: PeerId, now: float, *, compact: bool = True) -> list[Effect]:
        """A link to ``peer`` came up; ``compact`` says whether it reads compact digests."""
        self._banished.readmit(peer)
        self._replicas.linked(peer)
        self._own_words.linked(peer, compact=compact)
        return [*self._liveness.alive(peer, now)]

    def link_lost(self, peer: PeerId, now: float) -> None:
        """The link to ``peer`` broke: unless it is heard of soon, it is DOWN."""
        self._own_words.unlinked(peer)
        self._liveness.link_lost(peer, now)

    def said_goodbye(self, peer: PeerId, now: float) -> list[Effect]:
        """``peer`` stops on purpose: LEFT, until it links again or restarts."""
        return [*self._liveness.left(peer, now)]

    def prove(self, origin: PeerId) -> None:
        """``origin`` is a member, as its chain shows: from here on, others are told of it."""
        self._replicas.prove(origin)

    def disprove(self, origin: PeerId) -> list[OriginReset]:
        """What is told of ``origin`` comes from no member: forget it, unless it has a link."""
        return [] if origin in self._own_words else [self._drop(origin)]

    def banish(self, origin: PeerId, now: float) -> None:
        """Forget a peer that is no member any more, and heed nobody who still tells of it."""
        self._liveness.forget(origin)
        replica = self._replicas.drop(origin)
        self._banished.banish(origin, replica.incarnation if replica else None, now)

    # --- Within -------------------------------------------------------------------------------

    def _replica(self, origin: PeerId) -> Replica | None:
        return self._own if origin == self.me else self._replicas.by_origin.get(origin)

    def _answered(self, sender: PeerId, answer: SynAck, now: float) -> list[Effect]:
        check(answer.digest, answer.deltas)
        effects = self._apply(sender, answer.deltas, now)
        compared, lacks = self._compare(sender, answer.digest, now)
        effects += compared
        if lacks and (deltas := fit(lacks, DELTA_BYTES_MAX, self._rng)):
            effects.append(Send(sender, GossipAck(deltas)))
        return effects

    def _forget(self, now: float) -> list[OriginReset]:
        """Hush up who has been silent for half of FORGET_PEER_S, and forget them after the other.

        They are hushed up long before they are forgotten, so that nobody learns of a dead peer
        anew from someone who forgets it a little later, round after round. Who had a link and told
        nothing is forgotten after UNPROVEN_S: any number of members may come and go.
        """
        self._replicas.hushed = self._liveness.silent(FORGET_PEER_S / 2, now)
        forgotten = {*self._replicas.overdue(now)}
        forgotten |= {
            peer
            for peer in self._liveness.silent(UNPROVEN_S, now)
            if peer not in self._replicas.by_origin and peer not in self._own_words
        }
        if self._replicas.hushed:
            forgotten |= self._liveness.silent(FORGET_PEER_S, now)
        return [self._drop(origin) for origin in sorted(forgotten)]

    def _drop(self, origin: PeerId) -> OriginReset:
        self._liveness.forget(origin)
        self._replicas.drop(origin)
        return OriginReset(origin)

    def _digest(self, mentioned: Set[PeerId] = frozenset()) -> tuple[DigestEntry, ...]:
        told = self._replicas.told(mentioned)
        return (self._own.known, *(replica.known for replica in told))

    def _compact(self) -> CompactDigest:
        up = self._liveness.up
        live = [replica.known for replica in self._replicas.told() if up(replica.origin)]
        return CompactDigest((self._own.known, *live))

    def _compare(
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
            elif origin == self.me:
                effects += self._defend(sender, entry, entry.heartbeat, now)
                lacks.append(self._own.lack_of(entry))
            elif replica := self._meet(origin, entry.incarnation, now, effects):
                replica.beat(entry)
                replica.seen_version = entry.version
        return effects, [lack for lack in lacks if lack is not None]

    def _unmentioned(self, sender: PeerId, digest: Sequence[DigestEntry]) -> list[Lack]:
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
        if replica.incarnation == incarnation:
            replica.seen_version = digest[0].version
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

    def _apply(self, sender: PeerId, deltas: Sequence[OriginDelta], now: float) -> list[Effect]:
        effects: list[Effect] = []
        me, replicas = self.me, self._replicas.by_origin
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
                replica.note_current(now)
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
            effects.append(self._drop(displaced))
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
