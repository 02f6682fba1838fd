"""One node's part in one mesh: gossip, forwarding, and what each must hear of the other.

A `Member` joins what the node publishes (its card, its load, its prefix summary), what it knows of
the others, and the requests that it has a part in. It has no links, no engines and no clock: those
belong to its driver, `overlay.mesh.Mesh` on real links, or a simulator in virtual time. The driver
tells what happened and when, and carries out the effects in order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import starmap

from models.engine import (
    CacheChanged,
    EngineDied,
    EngineEvent,
    EngineStats,
    ModelInfo,
    Prompt,
    Sampling,
    Tokens,
)
from overlay.effects import Effect, Meet, Outcast, PeerChanged, Revoked, Unreadable
from overlay.errors import HearthError, IdentityError, Malformed
from overlay.forwarding import effects as fwd
from overlay.forwarding.forwarder import Forwarder
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.forwarding.terms import NO_BOUNDS, Terms
from overlay.gossip import effects as gsp
from overlay.gossip.gossip import Gossip
from overlay.gossip.records import CARD, CHAIN, is_revocation
from overlay.identity.branches import Full, Lineage
from overlay.identity.multiaddr import Multiaddr, readable_addresses
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocation, Revocations
from overlay.limits import EXPLANATIONS_MAX, GOSSIP_INTERVAL_S
from overlay.publisher import Publisher
from overlay.roll import Roll
from overlay.routing.policy import Policy
from overlay.wire.anti_entropy import Change, RevocationNotice
from overlay.wire.messages import COMPACT_DIGESTS_VERSION, VERSIONS, Forward, Goodbye, Message


class Member:
    """Times in seconds, of one monotonic clock. Effects are to be carried out in order."""

    def __init__(
        self,
        me: PeerId,
        incarnation: int,
        mesh_secret: bytes,
        policy: Policy,
        rng: random.Random,
        now: float,
        *,
        terms: Terms = NO_BOUNDS,
        certificates: tuple[bytes, ...] = (),
        revocations: Revocations | None = None,
        gossip_interval_s: float = GOSSIP_INTERVAL_S,
        explained_max: int = EXPLANATIONS_MAX,
    ) -> None:
        """``incarnation``: milliseconds since 1970 at the start. Raises LocalProtocolError.

        ``certificates``: this node's chain; the founder has none. ``revocations``: what is known
        of them; None: nothing, in the mesh that this node founded. ``explained_max``: how many
        requests are remembered to be explained.
        """
        self.me = me
        self.neighbourhood = Neighbourhood(me)
        self.gossip = Gossip(me, incarnation, rng, now, interval_s=gossip_interval_s)
        self._rng = rng
        self._founder = me if revocations is None else revocations.founder
        self.roll = Roll(self.gossip, certificates, revocations or Revocations(me), now)
        self.publisher = Publisher(self.gossip)
        self.forwarder = Forwarder(
            me, self.neighbourhood, mesh_secret, policy, terms=terms, explained_max=explained_max
        )
        self._name = ""
        self._addresses: tuple[Multiaddr, ...] = ()

    def described(self, name: str, addresses: Sequence[Multiaddr], now: float) -> None:
        """What the card is to say of this node: its name, and where others may reach it."""
        self._name = name
        self._addresses = tuple(addresses)
        self._publish(now)

    def pause(self, now: float, *, hand_back: bool = False) -> Sequence[Effect]:
        """Take no more requests of other members, and tell them; ``hand_back``: end theirs here."""
        self.forwarder.lending.paused = True
        self._publish(now)
        return self.forwarder.hand_back() if hand_back else []

    def resume(self, now: float) -> None:
        """Take requests of other members again, and tell them."""
        self.forwarder.lending.paused = False
        self._publish(now)

    # --- Requests of local clients ------------------------------------------------------------

    def submit(
        self,
        request_id: bytes,
        model: str,
        prompt: Prompt,
        sampling: Sampling,
        now: float,
        *,
        local_only: bool = False,
    ) -> Sequence[Effect]:
        """A local client asks; `Emit` effects tell it everything, ending with Answer or Failure."""
        return self.forwarder.submit(
            request_id, model, prompt, sampling, now, local_only=local_only
        )

    def cancel(self, request_id: bytes, now: float) -> Sequence[Effect]:
        """The local client hung up."""
        return self.forwarder.cancel(request_id, now)

    # --- What the engines tell ----------------------------------------------------------------

    def tokenized(
        self, request_id: bytes, result: Tokens | HearthError, now: float
    ) -> Sequence[Effect]:
        """Answer to a Tokenize effect."""
        return self.forwarder.tokenized(request_id, result, now)

    def models_changed(
        self, infos: Iterable[ModelInfo], lost: Mapping[str, str], now: float
    ) -> None:
        """The served models are now ``infos``: tell the mesh, and start its summaries anew.

        ``lost``: why a model that was served here is not served now, by each of its names.
        """
        served = {info.name: info for info in infos}
        for gone in self.neighbourhood.models.keys() - served.keys():
            self.neighbourhood.model_gone(gone)
        for name, info in served.items():
            if name not in self.neighbourhood.models:
                private = self.forwarder.lending.terms.is_private(name, info.aliases)
                self.neighbourhood.model_loaded(info, private=private)
        # The default is the first, also when it comes back from a restart of its engine.
        self.neighbourhood.models = {name: self.neighbourhood.models[name] for name in served}
        self.neighbourhood.lost = dict(lost)
        self._publish(now)
        self._summarise(now)

    def engine_event(self, model: str, event: EngineEvent, now: float) -> Sequence[Effect]:
        """An event of the local engine of ``model``.

        Of a model that is not served any more, only what concerns requests still matters.
        """
        match event:
            case EngineStats():
                if model in self.neighbourhood.models:
                    self.neighbourhood.engine_stats(model, event)
                    self.forwarder.ledger.news(self.me, now)
                    self._publish(now)
                return []
            case CacheChanged():
                if model in self.neighbourhood.models:
                    self.neighbourhood.cache_changed(model, event)
                    self._summarise(now)
                return []
            case EngineDied():
                return []  # Its requests were failed before.
        return self.forwarder.on_engine(event, now)

    # --- What the links tell ------------------------------------------------------------------

    def link_up(
        self,
        peer: PeerId,
        name: str,
        now: float,
        versions: Sequence[int] = VERSIONS,
        lineage: Lineage = (),
    ) -> Sequence[Effect]:
        """A link to ``peer`` is up; it goes by ``name``, until its card says more.

        ``versions``: of the protocol, that the peer speaks. ``lineage``: who let it in.
        """
        self.neighbourhood.introduced(peer, name, lineage, now)
        compact = COMPACT_DIGESTS_VERSION in versions
        return self._of_gossip(
            self.gossip.alive(peer, now, compact=compact, lineage=lineage), peer, now
        )

    def link_down(self, peer: PeerId, now: float) -> Sequence[Effect]:
        """The link to ``peer`` is gone."""
        thrown_out = self.roll.is_void(peer)
        lost_at = -math.inf if thrown_out else self._lost_at(peer, now)
        self.neighbourhood.link_down(peer, lost_at)
        self.gossip.link_lost(peer, now)
        return self.forwarder.peer_lost(peer, now, link_only=lost_at == now, thrown_out=thrown_out)

    def _lost_at(self, peer: PeerId, now: float) -> float:
        """Now, if its link broke and it may have another soon; -inf: it is gone."""
        return now if self.gossip.is_up(peer) else -math.inf

    def links_measured(self, rtts_ms: Mapping[PeerId, float], now: float) -> None:
        """Round trip times of links that are up: as each is measured, and of all in each round."""
        for peer, rtt_ms in rtts_ms.items():
            current_at = now - self.gossip.age_s(peer, now)
            self.neighbourhood.link_measured(peer, rtt_ms, current_at)

    def receive(self, peer: PeerId, message: Message, now: float) -> Sequence[Effect]:
        """A message from ``peer``. Raises RemoteProtocolError on a lie: then hang up."""
        if isinstance(message, fwd.ForwardingMessage):
            return self.forwarder.receive(peer, message, now)
        if isinstance(message, gsp.GossipMessage):
            return self._of_gossip(self.gossip.receive(peer, message, now), peer, now)
        if isinstance(message, Goodbye):
            return self._of_gossip(self.gossip.said_goodbye(peer, now), peer, now)
        if isinstance(message, RevocationNotice):
            try:
                return self.told_revoked(message.record, now)
            except IdentityError as error:
                raise Malformed(str(error)) from None
        return []

    def told_revoked(self, record: bytes, now: float) -> Sequence[Effect]:
        """As `revoked`, of what somebody else tells, a stranger even: that may be any number."""
        revocation = self.roll.heard(record, now)
        return [] if revocation is None else self._revoked(revocation, record)

    def revoked(self, record: bytes, now: float) -> Sequence[Effect]:
        """A revocation of this node's user.

        Raises Malformed, BadSignature, NotAMember for one that no member of this mesh made.
        """
        revocation = self.roll.add(record, now)
        return [] if revocation is None else self._revoked(revocation, record)

    def exclude(self, peer: PeerId, now: float) -> Sequence[Effect]:
        """Forget one that is no member any more, and has no link."""
        self.gossip.banish(peer, now)
        effects = self.forwarder.peer_lost(peer, now)
        self.neighbourhood.origin_reset(peer)
        return effects

    def undeliverable(
        self, peer: PeerId, message: Message, now: float, error: HearthError | None = None
    ) -> Sequence[Effect]:
        """A Send could not be carried out; None: the peer has no link, or its queue is full."""
        if error is None and isinstance(message, Forward):
            # Its link broke, and that is told in a moment; or the next round measures it again.
            self.neighbourhood.link_stuck(peer, self._lost_at(peer, now))
        return self.forwarder.undeliverable(peer, message, now, error)

    # --- Time ---------------------------------------------------------------------------------

    def tick(self, now: float, linked: Sequence[PeerId]) -> Sequence[Effect]:
        """Do what is due. ``linked``: the peers to which a link is up."""
        effects: list[Effect] = []
        if now >= self.gossip.next_deadline():
            self._publish(now)
            self._summarise(now)
            effects += starmap(fwd.CopiesChanged, self.neighbourhood.copies_changed())
            effects += self._of_gossip(self.gossip.tick(now, linked), self.me, now)
            for origin, record in self.roll.round(self._rng, now):
                by = origin if origin in linked else None  # It may be made up.
                effects += self._told_of(origin, record, by, now)
            for origin in self.roll.unverified(self._rng):
                effects += self._meet(origin, origin if origin in linked else None, now)
        if now >= self.forwarder.next_deadline():
            effects += self.forwarder.tick(now)
        return effects

    def next_deadline(self) -> float:
        """When to call `tick`, at the latest."""
        return min(self.gossip.next_deadline(), self.forwarder.next_deadline())

    def due_before(self, at: float) -> bool:
        """Whether something that a request waits for may be due before that; quick to tell.

        Gossip's next round is due when `tick` last left it, so only `next_deadline` tells of it.
        """
        return self.forwarder.deadlines.soonest < at

    # --- Within -------------------------------------------------------------------------------

    def _publish(self, now: float) -> None:
        models = [(m.info, m.stats) for m in self.neighbourhood.models.values()]
        lost_share = self.neighbourhood.losses.share
        self.publisher.card_and_load(
            self._name,
            self._addresses,
            models,
            lost_share,
            now,
            paused=self.forwarder.lending.paused,
            private=[m.info.name for m in self.neighbourhood.models.values() if m.private],
            guest_places=self.forwarder.lending.places,
        )

    def _summarise(self, now: float) -> None:
        """Tell of the local caches what changed in them, as far as the summary takes it."""
        changes = self.neighbourhood.summary.take(now)
        if changes is not None:
            self.publisher.summary(changes, now)

    def _of_gossip(self, effects: Iterable[gsp.Effect], by: PeerId, now: float) -> list[Effect]:
        """Take in what gossip with ``by`` brought; returns what the driver must do for it."""
        found: list[Effect] = []
        for effect in effects:
            match effect:
                case gsp.Send(peer=peer, message=message):
                    found.append(fwd.Send(peer, message))
                case gsp.RecordsChanged(origin=origin, changes=changes):
                    found += self._records_changed(origin, changes, by, now)
                case gsp.OriginReset(origin=origin):
                    self.neighbourhood.origin_reset(origin)
                case gsp.PeerDown(peer=peer):
                    found += [effect, *self.forwarder.peer_lost(peer, now)]
                case gsp.PeerUp() | gsp.Disputed() | gsp.Disbelieved():
                    found.append(effect)
        return found

    def _revoked(self, revocation: Revocation, record: bytes) -> list[Effect]:
        outcasts = self.roll.outcasts(revocation.subject)
        # The chain need not be known: the founder stands above everybody.
        if revocation.issuer == self._founder and not self.roll.chain(revocation.subject):
            outcasts.append(revocation.subject)
        return [Revoked(revocation, record), *map(Outcast, outcasts)]

    def _told_of(
        self, origin: PeerId, record: bytes, by: PeerId | None, now: float
    ) -> list[Effect]:
        """``origin`` publishes a revocation, says ``by``."""
        try:
            return [*self.told_revoked(record, now)]
        except HearthError as error:
            return [Unreadable(origin, by, str(error))]

    def _records_changed(
        self, origin: PeerId, changes: Sequence[Change], by: PeerId, now: float
    ) -> list[Effect]:
        effects: list[Effect] = []
        for change in changes:
            if is_revocation(change.key) and change.value is not None:
                effects += self._told_of(origin, change.value, by, now)
        if any(change.key == CHAIN for change in changes) and self.roll.is_void(origin):
            return [*effects, Outcast(origin)]
        try:
            if self.neighbourhood.records_changed(origin, changes):
                self.forwarder.ledger.news(origin, now)
            self.neighbourhood.summary_current(origin, now - self.gossip.age_s(origin, now))
        except Malformed as error:
            # Its chain may well be readable: a member of a newer kind is one.
            effects.append(Unreadable(origin, by, str(error)))
        if any(change.key in (CARD, CHAIN) for change in changes):
            effects += self._meet(origin, by, now)
        return effects

    def _meet(self, origin: PeerId, by: PeerId | None, now: float) -> list[Effect]:
        """Get to know a member, once it has told who it is. Nobody dials those who are made up."""
        try:
            verified = self.roll.verify(origin)
        except HearthError as error:
            effects = self._of_gossip(self.gossip.disprove(origin), origin, now)
            return [*effects, Unreadable(origin, by, str(error))]
        if isinstance(verified, Full):
            # Of too large a mesh nobody is the cause.
            head = verified.head
            return [] if head is None else [fwd.Noticed(head, "lets in too many", str(verified))]
        neighbour = self.neighbourhood.neighbours.get(origin)
        if not verified or neighbour is None or neighbour.card is None:
            return []
        return [Meet(origin, readable_addresses(neighbour.card.addresses)), PeerChanged(origin)]
