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
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from models.engine import EngineEvent, Failed, Tokens
from overlay.admission.handshake import LocalNode
from overlay.engines import EnginePool
from overlay.errors import EngineFailed, HearthError, RemoteProtocolError
from overlay.forwarding import effects as fwd
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.forwarding.terms import Terms
from overlay.gossip import effects as gsp
from overlay.http.backend import Ask, Route
from overlay.identity.certificates import Membership
from overlay.identity.invites import InviteLedger
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX
from overlay.member import Effect, Meet, Member, PeersChanged, Unreadable, readable
from overlay.routing.cost_policy import CostPolicy
from overlay.transport.interfaces import reachable_addresses
from overlay.transport.lan import LanDiscovery
from overlay.transport.transport import Transport
from overlay.wire.messages import Hello, Message

log = logging.getLogger(__name__)


class Mesh:
    """All methods belong to one asyncio loop. ``on_ledger`` is told when invites were used.

    ``lan``: announce this node to members on the local network, and look for them there.
    """

    def __init__(
        self,
        *,
        node: LocalNode,
        ledger: InviteLedger,
        incarnation: int,
        engines: EnginePool,
        on_client_event: Callable[[bytes, fwd.ClientEvent], None],
        on_ledger: Callable[[], None],
        on_peers: Callable[[], None],
        terms: Terms,
        lan: bool,
        rng: random.Random,
    ) -> None:
        assert node.membership is not None, "a mesh has members"
        self._node = node
        self._engines = engines
        self._on_client_event = on_client_event
        self._on_peers = on_peers
        self._addresses: tuple[Multiaddr, ...] = ()
        self._met: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._look_on_lan = lan
        self._lan: LanDiscovery | None = None
        #: Peers, and models of theirs, that tokenize unlike this node; said once.
        self._warned_of: set[tuple[PeerId, str]] = set()
        self._wake = asyncio.Event()
        #: What the driver sleeps until; whatever must happen before wakes it.
        self._due = 0.0
        self._driver: asyncio.Task[None] | None = None
        self._tokenizing: set[asyncio.Task[None]] = set()
        self.me = node.key.peer_id
        now = self.now()
        secret = node.membership.mesh_secret
        self.member = Member(self.me, incarnation, secret, CostPolicy(rng), rng, now, terms=terms)
        self.member.described(node.name, (), now)
        self.transport = Transport(
            node=lambda: self._node, ledger=ledger, on_ledger=on_ledger, observer=self, rng=rng
        )

    # --- Life ---------------------------------------------------------------------------------

    async def start(self, listen: Sequence[Multiaddr]) -> tuple[Multiaddr, ...]:
        """Bind, publish, and begin to gossip. Returns the bound addresses. Raises AddressInUse."""
        bound = tuple(await self.transport.start(listen))
        self._addresses = reachable_addresses(bound)
        self._node = replace(self._node, addresses=tuple(str(a) for a in self._addresses))
        self.member.described(self._node.name, self._addresses, self.now())
        self.models_changed()
        self._driver = asyncio.create_task(self._drive())
        if self._look_on_lan:
            secret = self.membership.mesh_secret
            self._lan = LanDiscovery(secret, self.me, self._addresses, self._found_on_lan)
            await self._lan.start()
        return bound

    async def close(self) -> None:
        """Say goodbye and stop; requests still open are dropped."""
        for task in (*self._tokenizing, *([self._driver] if self._driver else [])):
            task.cancel()
        if self._lan is not None:
            await self._lan.close()
        await self.transport.close()

    @property
    def membership(self) -> Membership:
        assert self._node.membership is not None, "checked when the mesh was made"
        return self._node.membership

    def look_around(self) -> Neighbourhood:
        """The neighbourhood, with the links as they are now."""
        links = self.transport.links().items()
        measured = {peer: link.rtt_ms for peer, link in links if link.rtt_ms is not None}
        self.member.links_measured(measured, self.now())
        return self.member.neighbourhood

    def known_peers(self) -> list[PeerId]:
        """Every other member heard of."""
        return sorted(peer for peer in self.member.gossip.states() if peer != self.me)

    def peer_addresses(self) -> dict[PeerId, tuple[Multiaddr, ...]]:
        """Where the members heard of may be reached, for the next start."""
        return {
            peer: readable(neighbour.card.addresses)
            for peer, neighbour in self.member.neighbourhood.neighbours.items()
            if neighbour.card is not None
        }

    def peer_state(self, peer: PeerId) -> str:
        """``UP``, ``DOWN`` or ``LEFT``: this node's own judgement."""
        return self.member.gossip.states()[peer].name

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where others may reach this node."""
        return self._addresses

    def meet(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        """Keep a link to a peer that we know from elsewhere (a token, the peers of last time)."""
        if peer != self.me and addresses:
            self._met[peer] = tuple(addresses)
            self.transport.dial(peer, addresses)

    def _found_on_lan(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        """Try what was announced first, and keep the rest: an announcement may be an old one."""
        if peer in self._met or len(self._met) < MEMBERS_MAX:
            known = self._met.setdefault(peer, ())
            self.transport.dial(peer, tuple(dict.fromkeys((*addresses, *known))))

    def pause(self, *, hand_back: bool = False) -> None:
        """Take no more requests of other members; ``hand_back``: end those under way, too."""
        self._carry_out(self.member.pause(self.now(), hand_back=hand_back))

    def resume(self) -> None:
        """Take requests of other members again."""
        self.member.resume(self.now())

    # --- Requests of local clients ------------------------------------------------------------

    def submit(self, request_id: bytes, ask: Ask, model: str) -> None:
        self.look_around()
        local_only = ask.route is Route.LOCAL
        effects = self.member.submit(
            request_id, model, ask.prompt, ask.sampling, self.now(), local_only=local_only
        )
        self._carry_out(effects)

    def cancel(self, request_id: bytes) -> None:
        self._carry_out(self.member.cancel(request_id))

    # --- What the engines tell ----------------------------------------------------------------

    def models_changed(self) -> None:
        """The set of served models changed."""
        self.member.models_changed(self._engines.infos(), self._engines.lost, self.now())
        self._warn_of_unlike()

    def engine_event(self, model: str, event: EngineEvent) -> None:
        """An event of a local engine."""
        self._carry_out(self.member.engine_event(model, event, self.now()))

    # --- What the links tell (LinkObserver) ---------------------------------------------------

    def link_up(self, peer: PeerId, hello: Hello) -> None:
        log.info("link to %s (%s) is up", hello.name, peer)
        self._carry_out(self.member.link_up(peer, hello.name, self.now()))
        self.look_around()
        self._wake.set()

    def link_down(self, peer: PeerId, reason: str) -> None:
        log.info("link to %s is down: %s", peer, reason)
        self._carry_out(self.member.link_down(peer, self.now()))

    def received(self, peer: PeerId, message: Message, size: int) -> None:
        try:
            effects = self.member.receive(peer, message, self.now())
        except RemoteProtocolError as error:
            log.warning("%s broke the protocol: %s", peer, error)
            self.transport.hang_up(peer, str(error))
            return
        self._carry_out(effects)

    # --- Timers -------------------------------------------------------------------------------

    async def _drive(self) -> None:
        while True:
            self.look_around()
            self._carry_out(self.member.tick(self.now(), sorted(self.transport.links())))
            self._due = self.member.next_deadline()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, self._due - self.now()))

    def now(self) -> float:
        """Seconds, of the clock that all times in here are of."""
        return time.monotonic()

    # --- Effects ------------------------------------------------------------------------------

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """Carry out effects, and those that follow from them, in order."""
        queue = deque(effects)
        while queue:
            effect = queue.popleft()
            match effect:
                case fwd.Send(peer=peer, message=message):
                    if not self.transport.send(peer, message):
                        queue.extend(self.member.undeliverable(peer, message, self.now()))
                case fwd.Emit(request_id=request_id, event=event):
                    self._on_client_event(request_id, event)
                case fwd.Tokenize():
                    task = asyncio.create_task(self._tokenize(effect))
                    self._tokenizing.add(task)
                    task.add_done_callback(self._tokenizing.discard)
                case fwd.Remember(model=model, prompt=prompt, answer=answer):
                    engine = self._engines.get(model)
                    if engine is not None:
                        engine.remember(prompt, answer)
                case fwd.Generate(model=model, request=request):
                    engine = self._engines.get(model)
                    if engine is not None:
                        engine.submit(request)
                    else:
                        gone = Failed(request.request_id, EngineFailed.code, "the model is gone")
                        queue.extend(self.member.engine_event(model, gone, self.now()))
                case fwd.CancelGeneration(model=model, request_id=request_id):
                    engine = self._engines.get(model)
                    if engine is not None:
                        engine.cancel(request_id)
                case Meet(peer=peer, addresses=addresses):
                    self.meet(peer, addresses)
                case PeersChanged():
                    self._warn_of_unlike()
                    self._on_peers()
                case _:
                    self._tell(effect)
        if self.member.next_deadline() < self._due:
            self._wake.set()

    def _tell(self, news: gsp.PeerUp | gsp.PeerDown | gsp.Disputed | Unreadable) -> None:
        name_of = self.member.neighbourhood.name_of
        match news:
            case gsp.PeerUp(peer=peer):
                log.info("%s is UP", name_of(peer))
            case gsp.PeerDown(peer=peer, reason=reason):
                log.info("%s is DOWN: %s", name_of(peer), reason)
            case gsp.Disputed(by=peer, incarnation=incarnation):
                log.warning(
                    "%s held records of this node that it never wrote (a copied home, or a "
                    "clock set back?); it goes on as incarnation %d",
                    peer,
                    incarnation,
                )
            case Unreadable(origin=origin, reason=reason):
                log.warning("records of %s are malformed: %s", origin, reason)

    def _warn_of_unlike(self) -> None:
        for peer, model in self.member.neighbourhood.unlike():
            if (peer, model) not in self._warned_of:
                self._warned_of.add((peer, model))
                log.warning(
                    "%s (%s) tokenizes %s unlike this node, though it is the same model: its cache "
                    "is not used; run the same version of Hearth and llama.cpp on both",
                    self.member.neighbourhood.name_of(peer),
                    peer,
                    model,
                )

    async def _tokenize(self, effect: fwd.Tokenize) -> None:
        result: Tokens | HearthError
        try:
            engine = self._engines.get(effect.model)
            if engine is None:
                raise EngineFailed("the model is gone")
            result = await engine.tokenize(effect.prompt)
        except HearthError as error:
            result = error
        self.look_around()
        self._carry_out(self.member.tokenized(effect.request_id, result, self.now()))
