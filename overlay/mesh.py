"""Drives a `Member` over real links, with real engines and a real clock.

One `Mesh` is a node's life in one mesh. It owns the transport and the discovery on the LAN, tells
the member what happened, wakes it when it wants, and carries out its effects.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from models.engine import EngineEvent, Tokens
from overlay.acquaintances import Acquaintances
from overlay.admission.handshake import LocalNode
from overlay.effects import Effect, Meet, Outcast, PeerChanged, Revoked, Unreadable
from overlay.engine_effects import EngineEffect, EngineEffects
from overlay.engines import EnginePool
from overlay.errors import HearthError, LimitExceeded, RemoteProtocolError
from overlay.forwarding import effects as fwd
from overlay.forwarding.terms import Terms
from overlay.gossip.effects import PeerState
from overlay.home.contents import Contact
from overlay.http.backend import Ask, Route
from overlay.identity.branches import Lineage
from overlay.identity.certificates import Membership
from overlay.identity.invites import InviteLedger
from overlay.identity.multiaddr import Multiaddr, readable_addresses
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocation, Revocations
from overlay.limits import GOSSIP_INTERVAL_S, UNREADABLE_MESSAGES
from overlay.member import Member
from overlay.mesh_log import MeshLog
from overlay.outbox import Outbox
from overlay.routing.cost_policy import CostPolicy
from overlay.transport.lan import LanDiscovery
from overlay.transport.port_mapping import PortMapping
from overlay.transport.transport import Transport
from overlay.whereabouts import Whereabouts
from overlay.wire.anti_entropy import RevocationNotice
from overlay.wire.messages import Hello, Message

log = logging.getLogger(__name__)


class Mesh:
    """All methods belong to one asyncio loop. ``on_ledger`` is told when invites were used.

    ``revocations`` grow in here; ``on_revoked`` is told then, and must write them to the home
    before it returns. Where this node's own membership is void, it has no links.

    ``lan``: announce this node to members on the local network, and look for them there.
    ``announce``: where others reach it besides. ``map_port``: have the router pass a port on to it.
    ``relays``: pass on for members that cannot dial each other.
    """

    def __init__(
        self,
        *,
        node: LocalNode,
        ledger: InviteLedger,
        revocations: Revocations,
        incarnation: int,
        engines: EnginePool,
        on_client_event: Callable[[bytes, fwd.ClientEvent], None],
        on_ledger: Callable[[], None],
        on_revoked: Callable[[], None],
        on_peers: Callable[[], None],
        terms: Terms,
        lan: bool,
        announce: Sequence[Multiaddr],
        map_port: bool,
        relays: bool,
        rng: random.Random,
    ) -> None:
        assert node.membership is not None, "a mesh has members"
        self._node = node
        self._engines = engines
        self._on_client_event = on_client_event
        self._on_revoked = on_revoked
        self._on_peers = on_peers
        self._addresses: tuple[Multiaddr, ...] = ()
        self.revocations = revocations
        self._wake = asyncio.Event()
        #: What the driver sleeps until; whatever must happen before wakes it.
        self._due = 0.0
        self._driver: asyncio.Task[None] | None = None
        self._engine_effects = EngineEffects(engines, self._tokenized)
        self.me = node.key.peer_id
        now = self.now()
        self.member = Member(
            self.me,
            incarnation,
            node.membership.mesh_secret,
            CostPolicy(rng),
            rng,
            now,
            certificates=node.membership.certificates,
            revocations=revocations,
            terms=terms,
        )
        self.member.described(node.name, (), now)
        self._log = MeshLog(
            self.member.neighbourhood, self.member.gossip.is_member, self.member.roll.lineage
        )
        self.transport = Transport(
            node=lambda: self._node,
            ledger=ledger,
            revocations=revocations,
            on_ledger=on_ledger,
            observer=self,
            lineage=self.member.roll.lineage,
            rng=rng,
            relays=relays,
        )
        self.acquaintances = Acquaintances(self.transport, self.member.gossip)
        self._outbox = Outbox(self.transport.send, self._lost)
        self.whereabouts = Whereabouts(
            self.transport,
            announce,
            self._discovery if lan and self.revoked is None else None,
            PortMapping(rng) if map_port else None,
        )

    # --- Life ---------------------------------------------------------------------------------

    async def start(self, listen: Sequence[Multiaddr]) -> tuple[Multiaddr, ...]:
        """Bind, publish, and begin to gossip. Returns the bound addresses. Raises AddressInUse."""
        bound = tuple(await self.transport.start(listen))
        await self.whereabouts.start(bound, self.now())
        self._describe()
        self.models_changed()
        self._driver = asyncio.create_task(self._drive())
        if (revoked := self.revoked) is not None:
            self._say_revoked(revoked)
        return bound

    def _discovery(self, addresses: Sequence[Multiaddr]) -> LanDiscovery:
        return LanDiscovery(self.membership.mesh_secret, self.me, addresses, self._found_on_lan)

    def _describe(self) -> None:
        """Tell others where they may reach this node, if that is news."""
        addresses = self.whereabouts.look(self.now())
        if addresses != self._addresses:
            self._addresses = addresses
            self._node = replace(self._node, addresses=tuple(map(str, addresses)))
            self.member.described(self._node.name, addresses, self.now())

    async def close(self, reason: str = "the node stops") -> None:
        """Say goodbye and stop; requests still open are dropped."""
        self._engine_effects.close()
        if self._driver is not None:
            self._driver.cancel()
        # Guests hear that this node is gone. The engines may stay, and would go on for them.
        ended = self.member.pause(self.now(), hand_back=True)
        self._carry_out(effect for effect in ended if isinstance(effect, fwd.CancelGeneration))
        await asyncio.gather(self.whereabouts.close(), self.transport.close(reason))
        if self._driver is not None:
            await asyncio.wait({self._driver})

    @property
    def membership(self) -> Membership:
        assert self._node.membership is not None, "checked when the mesh was made"
        return self._node.membership

    @property
    def revoked(self) -> Revocation | None:
        """What ended this node's own membership, if anything did."""
        found = self.revocations.find(self.membership.certificates)
        return found[0] if found else None

    def known_peers(self) -> dict[PeerId, PeerState]:
        """What this node thinks of every other member, but for those who may be made up."""
        gossip = self.member.gossip
        return {peer: state for peer, state in gossip.states().items() if gossip.is_member(peer)}

    def contacts(self) -> dict[PeerId, Contact]:
        """The members heard of and where they may be reached, for the next start."""
        return {
            peer: Contact(neighbour.card.name, readable_addresses(neighbour.card.addresses))
            for peer, neighbour in self.member.neighbourhood.neighbours.items()
            if neighbour.card is not None and self.member.roll.vouched(peer)
        }

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where others may reach this node."""
        return self._addresses

    def meet(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        """Keep a link to a peer that we know from elsewhere (a token, the peers of last time)."""
        if peer != self.me and self.revoked is None:
            self.acquaintances.meet(peer, addresses)

    def _found_on_lan(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        if self.revoked is None:
            self.acquaintances.found_on_lan(peer, addresses)

    def pause(self, *, hand_back: bool = False) -> None:
        """Take no more requests of other members; ``hand_back``: end those under way, too."""
        self._carry_out(self.member.pause(self.now(), hand_back=hand_back))

    def resume(self) -> None:
        """Take requests of other members again."""
        self.member.resume(self.now())

    # --- Requests of local clients ------------------------------------------------------------

    def submit(self, request_id: bytes, ask: Ask, model: str) -> None:
        local_only = ask.route is Route.LOCAL
        effects = self.member.submit(
            request_id, model, ask.prompt, ask.sampling, self.now(), local_only=local_only
        )
        self._carry_out(effects)

    def cancel(self, request_id: bytes) -> None:
        self._carry_out(self.member.cancel(request_id, self.now()))

    # --- What the engines tell ----------------------------------------------------------------

    def models_changed(self) -> None:
        """The set of served models changed."""
        self.member.models_changed(self._engines.infos(), self._engines.lost, self.now())
        self._log.warn_of_all_unlike(self.now())

    def engine_event(self, model: str, event: EngineEvent) -> None:
        """An event of a local engine."""
        self._carry_out(self.member.engine_event(model, event, self.now()))

    # --- What the links tell (LinkObserver) ---------------------------------------------------

    def link_up(self, peer: PeerId, hello: Hello, lineage: Lineage) -> None:
        log.info("link to %s (%s) is up", hello.name, peer)
        self.acquaintances.readmit(peer)
        name, versions = hello.name, hello.versions
        self._carry_out(self.member.link_up(peer, name, self.now(), versions, lineage))

    def link_measured(self, peer: PeerId, rtt_ms: float) -> None:
        self.member.links_measured({peer: rtt_ms}, self.now())

    def link_down(self, peer: PeerId, reason: str) -> None:
        log.info("link to %s is down: %s", peer, reason)
        self._carry_out(self.member.link_down(peer, self.now()))

    def received(self, peer: PeerId, message: Message, size: int) -> None:
        try:
            effects = self.member.receive(peer, message, self.now())
        except RemoteProtocolError as error:
            log.warning("%s broke the protocol: %s", peer, error)
            self.transport.blame(peer, error)
            return
        self._carry_out(effects)

    def revocation_shown(self, by: str, record: bytes) -> None:
        try:
            self._carry_out(self.member.told_revoked(record, self.now()))
        except HearthError as error:
            self._log.misled(by, error, self.now())

    def revoke(self, record: bytes) -> None:
        """A revocation of this node's user.

        Raises Malformed, BadSignature, NotAMember for one that no member of this mesh made.
        """
        self._carry_out(self.member.revoked(record, self.now()))

    # --- Timers -------------------------------------------------------------------------------

    async def _drive(self) -> None:
        while True:
            try:
                self._tick(self.now())
            except Exception:
                # Our bug, or a full disk: gossip and what requests wait for go on all the same.
                log.exception("what was due could not be done")
                await asyncio.sleep(GOSSIP_INTERVAL_S)
            self._due = self.member.next_deadline()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._due - self.now())):
                    await self._wake.wait()

    def _tick(self, now: float) -> None:
        # Most deadlines are those of requests, and may be many in a second.
        round_due = now >= self.member.gossip.next_deadline()
        self._carry_out(self.member.tick(now, self._linked() if round_due else ()))

    def _linked(self) -> list[PeerId]:
        """Who has a link, for a round of gossip; and what else takes a look at every peer."""
        links = self.transport.links()
        measured = {peer: its.rtt_ms for peer, its in links.items() if its.rtt_ms is not None}
        self.member.links_measured(measured, self.now())
        self._describe()
        if self.revoked is None:
            known = self.known_peers()
            self.transport.detour(peer for peer in known if known[peer] is PeerState.UP)
        return sorted(links)

    #: Seconds, of the clock that all times in here are of.
    now = staticmethod(time.monotonic)

    # --- Effects ------------------------------------------------------------------------------

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """Carry out effects, and those that follow from them, in order."""
        queue = [*effects]
        revoked = False
        for effect in queue:  # It grows while they are carried out.
            match effect:
                case fwd.Send(peer=peer, message=message):
                    queue.extend(self._send(peer, message))
                case fwd.Emit(request_id=request_id, event=event):
                    self._on_client_event(request_id, event)
                case _ if isinstance(effect, EngineEffect):
                    if (gone := self._engine_effects.carry_out(effect)) is not None:
                        queue.extend(self.member.engine_event(effect.model, gone, self.now()))
                case Meet(peer=peer, addresses=addresses):
                    self.acquaintances.readmit(peer)
                    self.meet(peer, addresses)
                case Revoked():
                    queue.extend(self._enforce(effect))
                    revoked = True
                case Outcast(peer=peer):
                    queue.extend(self._exclude(peer))
                case PeerChanged(peer=peer):
                    self._log.warn_of_unlike(peer, self.now())
                    self._on_peers()
                case Unreadable():
                    self._unreadable(effect)
                case fwd.Weighed(peer=peer, messages=messages):
                    self.transport.charge(peer, messages)
                case _:
                    self._log.tell(effect, self.now())
        if self.member.due_before(self._due):
            self._wake.set()
        if revoked:
            # Last, for a full disk must not keep the links up.
            self._on_revoked()

    def _send(self, peer: PeerId, message: Message) -> Sequence[Effect]:
        try:
            lost = self._outbox.send(peer, message)
        except LimitExceeded as error:  # A prompt as text, and the answer so far.
            return self.member.undeliverable(peer, message, self.now(), error)
        return [
            effect for each in lost for effect in self.member.undeliverable(peer, each, self.now())
        ]

    def _unreadable(self, told: Unreadable) -> None:
        self._log.tell(told, self.now())
        if told.by is not None and not self.member.gossip.is_member(told.origin):
            self.transport.charge(told.by, UNREADABLE_MESSAGES)

    def _lost(self, peer: PeerId, message: Message) -> None:
        self._carry_out(self.member.undeliverable(peer, message, self.now()))

    def _enforce(self, news: Revoked) -> list[Effect]:
        for peer in self.transport.links():
            self.transport.send(peer, RevocationNotice(news.record))
        refused = self.transport.refuse_revoked()
        if (revoked := self.revoked) is not None:
            self._stand_down(revoked)
        else:
            self._log.revoked(news.revocation)
        return [effect for peer in refused for effect in self._exclude(peer)]

    def _exclude(self, peer: PeerId) -> Sequence[Effect]:
        if peer in self.transport.links():
            return []  # with a newer certificate
        self.acquaintances.exclude(peer)
        effects = self.member.exclude(peer, self.now())
        self._on_peers()
        return effects

    def _say_revoked(self, revocation: Revocation) -> None:
        self.member.neighbourhood.outcast = True
        self._log.outcast(revocation)

    def _stand_down(self, revocation: Revocation) -> None:
        """This node is no member any more. Nobody would link to it: let them be."""
        self._say_revoked(revocation)
        self.acquaintances.part("this node is no member any more")
        self.whereabouts.hide()

    def _tokenized(self, request_id: bytes, result: Tokens | HearthError) -> None:
        self._carry_out(self.member.tokenized(request_id, result, self.now()))
