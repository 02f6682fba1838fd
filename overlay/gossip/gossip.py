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
    Effect,
    GossipMessage,
    OriginReset,
    PeerState,
    Send,
)
from overlay.gossip.fitting import fit
from overlay.gossip.hearsay import Hearsay
from overlay.gossip.liveness import Liveness
from overlay.gossip.opening import Opener
from overlay.gossip.own_words import OwnWords
from overlay.gossip.replica import Lack, OwnRecords, Replica, check
from overlay.gossip.replicas import Replicas
from overlay.identity.branches import Lineage
from overlay.identity.peer_id import PeerId
from overlay.limits import DELTA_BYTES_MAX, FORGET_PEER_S, GOSSIP_INTERVAL_S, UNPROVEN_S
from overlay.wire.anti_entropy import (
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
#: Incarnations start as milliseconds since 1970, below this for centuries.
INCARNATION_START_MAX: Final = 1 << 44


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
        self._hearsay = Hearsay(
            self._own, self._replicas, self._own_words, self._banished, self._liveness, interval_s
        )
        self._ticked_s = self._round_s = now

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

    def is_up(self, peer: PeerId) -> bool:
        """Whether this node takes a peer for alive."""
        return self._liveness.up(peer)

    def age_s(self, origin: PeerId, now: float) -> float:
        """Since the records of ``origin`` were last known to be current; infinite if never."""
        replica = self._replicas.by_origin.get(origin)
        return now - replica.current_s if replica else math.inf

    def is_member(self, origin: PeerId) -> bool:
        """Whether ``origin`` is known to be a member; who is not may be made up."""
        return self._replicas.is_member(origin)

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
        partners += [p for p in self._opener.neglected(self.age_s, now) if p not in partners]
        digest, compact = self._digest(), self._compact()
        return [*effects, *self._opener.open(partners, digest, compact, self._own_words, now)]

    # --- What others say ----------------------------------------------------------------------

    def receive(self, sender: PeerId, message: GossipMessage, now: float) -> list[Effect]:
        """Take part in an exchange. Raises RemoteProtocolError; then nothing was taken in."""
        match message:
            case Syn(digest):
                check(digest, ())
                effects, lacks = self._hearsay.compare(sender, digest, now)
                lacks += self._hearsay.unmentioned(sender, digest)
                deltas = self._fit(lacks)
                told = set(digest)
                mine = self._digest({entry.origin for entry in digest})
                otherwise = tuple(entry for entry in mine if entry not in told)
                effects.append(Send(sender, SynAck(otherwise, deltas, self._own.contents())))
            case CompactSyn():
                entries = self._compact().read(message)
                if entries is None:
                    self._opener.unreadable(now)
                    return [Send(sender, Syn(self._digest()))]
                entries.sort(key=lambda entry: entry.origin != sender)
                effects, lacks = self._hearsay.compare(sender, entries, now)
                deltas = self._fit(lacks)
                answer = self._compact().answer(message, deltas, self._own.contents())
                effects.append(Send(sender, answer))
            case SynAck():
                effects = self._answered(sender, message, now)
            case CompactSynAck():
                effects = self._answered(sender, self._compact().read_answer(message), now)
            case GossipAck(deltas):
                check((), deltas)
                effects = self._hearsay.apply(sender, deltas, now)
        return effects

    def alive(
        self, peer: PeerId, now: float, *, compact: bool = True, lineage: Lineage = ()
    ) -> Sequence[Effect]:
        """A link to ``peer`` came up; ``compact`` says whether it reads compact digests, and
        ``lineage`` who let it in."""
        self._banished.readmit(peer)
        self._replicas.linked(peer)
        self._own_words.linked(peer, compact=compact)
        self._opener.linked(peer, lineage, now)
        return self._liveness.alive(peer, now)

    def link_lost(self, peer: PeerId, now: float) -> None:
        """The link to ``peer`` broke: unless it is heard of soon, it is DOWN."""
        self._own_words.unlinked(peer)
        self._opener.unlinked(peer)
        self._liveness.link_lost(peer, now)

    def said_goodbye(self, peer: PeerId, now: float) -> Sequence[Effect]:
        """``peer`` stops on purpose: LEFT, until it links again or restarts."""
        return self._liveness.left(peer, now)

    def prove(self, origin: PeerId, lineage: Lineage = ()) -> None:
        """``origin`` is a member, as its chain shows, and who let it in: from here on, others are
        told of it."""
        self._replicas.prove(origin, lineage)

    def disprove(self, origin: PeerId) -> list[OriginReset]:
        """What is told of ``origin`` comes from no member: forget it, unless it has a link."""
        return [] if origin in self._own_words else [self._hearsay.forget(origin)]

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
        effects = self._hearsay.apply(sender, answer.deltas, now)
        if answer.own is not None and (corrected := self._hearsay.correct(sender, answer.own)):
            effects += [*corrected, Send(sender, Syn(self._digest()))]
        compared, lacks = self._hearsay.compare(sender, answer.digest, now)
        effects += compared
        if lacks and (deltas := self._fit(lacks)):
            effects.append(Send(sender, GossipAck(deltas)))
        return effects

    def _fit(self, lacks: Sequence[Lack]) -> tuple[OriginDelta, ...]:
        return fit(lacks, DELTA_BYTES_MAX, self._rng, self._replicas.head_of)

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
        return [self._hearsay.forget(origin) for origin in sorted(forgotten)]

    def _digest(self, mentioned: Set[PeerId] = frozenset()) -> tuple[DigestEntry, ...]:
        told = self._replicas.told(mentioned)
        return (self._own.known, *(replica.known for replica in told))

    def _compact(self) -> CompactDigest:
        up = self._liveness.up
        live = [replica.known for replica in self._replicas.told() if up(replica.origin)]
        return CompactDigest((self._own.known, *live))
