"""Drives the pure parts over real links: gossip, forwarding, and what each must hear of the other.

One `Mesh` is a node's life in one mesh. It owns the transport, the anti-entropy state and the
forwarding core, runs their timers, carries out their effects, and publishes this node's records.
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

from models.engine import CacheChanged, EngineEvent, EngineStats, Failed, Tokens
from overlay.admission.handshake import LocalNode
from overlay.engines import EnginePool
from overlay.errors import EngineFailed, HearthError, Malformed, RemoteProtocolError
from overlay.forwarding import effects as fwd
from overlay.forwarding.forwarder import Forwarder
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.gossip import effects as gsp
from overlay.gossip.gossip import Gossip
from overlay.gossip.records import CARD
from overlay.http.backend import Ask, Route
from overlay.identity.certificates import Membership
from overlay.identity.invites import InviteLedger
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX
from overlay.publisher import Publisher
from overlay.routing.cost_policy import CostPolicy
from overlay.transport.interfaces import reachable_addresses
from overlay.transport.lan import LanDiscovery
from overlay.transport.transport import Transport
from overlay.wire.messages import Change, Goodbye, GossipAck, Hello, Message, Syn, SynAck

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
        self._wake = asyncio.Event()
        #: What the driver sleeps until; whatever must happen before wakes it.
        self._due = 0.0
        self._driver: asyncio.Task[None] | None = None
        self._tokenizing: set[asyncio.Task[None]] = set()
        self.me = node.key.peer_id
        self.neighbourhood = Neighbourhood(self.me)
        self.gossip = Gossip(self.me, incarnation, rng, time.monotonic())
        self.publisher = Publisher(self.gossip)
        self.forwarder = Forwarder(
            self.me, self.neighbourhood, node.membership.mesh_secret, CostPolicy(rng)
        )
        self.transport = Transport(
            node=lambda: self._node, ledger=ledger, on_ledger=on_ledger, observer=self, rng=rng
        )

    # --- Life ---------------------------------------------------------------------------------

    async def start(self, listen: Sequence[Multiaddr]) -> tuple[Multiaddr, ...]:
        """Bind, publish, and begin to gossip. Returns the bound addresses. Raises AddressInUse."""
        bound = tuple(await self.transport.start(listen))
        self._addresses = reachable_addresses(bound)
        self._node = replace(self._node, addresses=tuple(str(a) for a in self._addresses))
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
        now = self._now()
        for peer, link in self.transport.links().items():
            if link.rtt_ms is not None:
                current_at = now - self.gossip.age_s(peer, now)
                self.neighbourhood.link_measured(peer, link.rtt_ms, current_at)
        return self.neighbourhood

    def known_peers(self) -> list[PeerId]:
        """Every other member heard of."""
        return sorted(peer for peer in self.gossip.states() if peer != self.me)

    def peer_addresses(self) -> dict[PeerId, tuple[Multiaddr, ...]]:
        """Where the members heard of may be reached, for the next start."""
        return {
            peer: _addresses(neighbour.card.addresses)
            for peer, neighbour in self.neighbourhood.neighbours.items()
            if neighbour.card is not None
        }

    def peer_state(self, peer: PeerId) -> str:
        """``UP``, ``DOWN`` or ``LEFT``: this node's own judgement."""
        return self.gossip.states()[peer].name

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

    # --- Requests of local clients ------------------------------------------------------------

    def submit(self, request_id: bytes, ask: Ask, model: str) -> None:
        now = self._now()
        self.look_around()
        effects = self.forwarder.submit(
            request_id,
            model,
            ask.prompt,
            ask.sampling,
            now,
            local_only=ask.route is Route.LOCAL,
        )
        self._carry_out(effects)

    def cancel(self, request_id: bytes) -> None:
        self._carry_out(self.forwarder.cancel(request_id))

    # --- What the engines tell ----------------------------------------------------------------

    def models_changed(self) -> None:
        """The set of served models changed: tell the mesh, and start its summaries anew."""
        served = {info.name: info for info in self._engines.infos()}
        for gone in self.neighbourhood.models.keys() - served.keys():
            hashes = self.neighbourhood.model_gone(gone)
            self.publisher.summary(CacheChanged((), tuple(hashes)), self._now())
        for name, info in served.items():
            if name not in self.neighbourhood.models:
                self.neighbourhood.model_loaded(info)
        self.neighbourhood.lost = dict(self._engines.lost)
        self._publish()

    def engine_event(self, model: str, event: EngineEvent) -> None:
        """An event of a local engine."""
        if model not in self.neighbourhood.models:
            return
        match event:
            case EngineStats():
                self.neighbourhood.engine_stats(model, event)
                self._publish()
            case CacheChanged():
                changed = self.neighbourhood.cache_changed(model, event)
                self.publisher.summary(changed, self._now())
            case _:
                self._carry_out(self.forwarder.on_engine(event, self._now()))

    # --- What the links tell (LinkObserver) ---------------------------------------------------

    def link_up(self, peer: PeerId, hello: Hello) -> None:
        log.info("link to %s (%s) is up", hello.name, peer)
        now = self._now()
        self.neighbourhood.introduced(peer, hello.name)
        self._carry_out_gossip(self.gossip.alive(peer, now), now)
        self.look_around()
        self._wake.set()

    def link_down(self, peer: PeerId, reason: str) -> None:
        log.info("link to %s is down: %s", peer, reason)
        now = self._now()
        self.neighbourhood.link_down(peer)
        self.gossip.link_lost(peer, now)
        self._carry_out(self.forwarder.peer_lost(peer, now))

    def received(self, peer: PeerId, message: Message, size: int) -> None:
        now = self._now()
        try:
            if isinstance(message, (Syn, SynAck, GossipAck)):
                self._carry_out_gossip(self.gossip.receive(peer, message, now), now)
            elif isinstance(message, Goodbye):
                self._carry_out_gossip(self.gossip.said_goodbye(peer, now), now)
            else:
                self._carry_out(self.forwarder.receive(peer, message, now))
        except RemoteProtocolError as error:
            log.warning("%s broke the protocol: %s", peer, error)
            self.transport.hang_up(peer, str(error))

    # --- Timers -------------------------------------------------------------------------------

    async def _drive(self) -> None:
        while True:
            now = self._now()
            if now >= self.gossip.next_deadline():
                self.look_around()
                self._publish()
                linked = sorted(self.transport.links())
                self._carry_out_gossip(self.gossip.tick(now, linked), now)
            if now >= self.forwarder.next_deadline():
                self._carry_out(self.forwarder.tick(now))
            self._due = min(self.gossip.next_deadline(), self.forwarder.next_deadline())
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, self._due - self._now()))

    def _now(self) -> float:
        return time.monotonic()

    # --- Effects ------------------------------------------------------------------------------

    def _carry_out(self, effects: Iterable[fwd.Effect]) -> None:
        """Carry out forwarding effects, and those that follow from them, in order."""
        queue = deque(effects)
        while queue:
            effect = queue.popleft()
            match effect:
                case fwd.Send(peer=peer, message=message):
                    if not self.transport.send(peer, message):
                        queue.extend(self.forwarder.undeliverable(peer, message, self._now()))
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
                        queue.extend(self.forwarder.on_engine(gone, self._now()))
                case fwd.CancelGeneration(model=model, request_id=request_id):
                    engine = self._engines.get(model)
                    if engine is not None:
                        engine.cancel(request_id)
        if self.forwarder.next_deadline() < self._due:
            self._wake.set()

    async def _tokenize(self, effect: fwd.Tokenize) -> None:
        result: Tokens | HearthError
        try:
            engine = self._engines.get(effect.model)
            if engine is None:
                raise EngineFailed("the model is gone")
            result = await engine.tokenize(effect.prompt)
        except HearthError as error:
            result = error
        now = self._now()
        self.look_around()
        self._carry_out(self.forwarder.tokenized(effect.request_id, result, now))

    def _carry_out_gossip(self, effects: Iterable[gsp.Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case gsp.Send(peer=peer, message=message):
                    self.transport.send(peer, message)
                case gsp.RecordsChanged(origin=origin, changes=changes):
                    self._records_changed(origin, changes, now)
                case gsp.OriginReset(origin=origin):
                    self.neighbourhood.origin_reset(origin)
                case gsp.PeerUp(peer=peer):
                    log.info("%s is UP", self.neighbourhood.name_of(peer))
                case gsp.PeerDown(peer=peer, reason=reason):
                    log.info("%s is DOWN: %s", self.neighbourhood.name_of(peer), reason)
                    self._carry_out(self.forwarder.peer_lost(peer, now))
                case gsp.Disputed(by=peer, incarnation=incarnation):
                    log.warning(
                        "%s held records of this node that it never wrote (a copied home, or a "
                        "clock set back?); it goes on as incarnation %d",
                        peer,
                        incarnation,
                    )

    def _records_changed(self, origin: PeerId, changes: Sequence[Change], now: float) -> None:
        try:
            if self.neighbourhood.records_changed(origin, changes):
                self.forwarder.ledger.news(origin, now)
        except Malformed as error:
            log.warning("records of %s are malformed: %s", origin, error)
            return
        card = self.neighbourhood.neighbours[origin].card
        if card is not None and any(change.key == CARD for change in changes):
            self.meet(origin, _addresses(card.addresses))
            self._on_peers()

    def _publish(self) -> None:
        models = [(m.info, m.stats) for m in self.neighbourhood.models.values()]
        self.publisher.card_and_load(self._node.name, self._addresses, models, self._now())


def _addresses(texts: Iterable[str]) -> tuple[Multiaddr, ...]:
    """The addresses that can be read; a newer node may have kinds that we do not know."""
    found = []
    for text in texts:
        with contextlib.suppress(Malformed):
            found.append(Multiaddr.parse(text))
    return tuple(found)
