"""Puts the parts together: the only file that knows them all.

A node is a home (who am I, whom do I know), a mesh (links, gossip, forwarding), engines (what this
machine computes) and an API (what clients see).
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from importlib import metadata
from itertools import combinations
from typing import Any

from models.engine import Engine, EngineEvent, goes_by
from models.store.store import ModelFile, ModelStore
from overlay.admission.handshake import LocalNode
from overlay.config import NodeConfig
from overlay.engines import EngineOptions, EnginePool, Progress
from overlay.errors import AddressInUse, ConfigError, NoRoute, Unreachable
from overlay.explained import explained, overview, reply
from overlay.forwarding import effects as fwd
from overlay.forwarding.explanations import Explanation
from overlay.home.address_book import AddressBook
from overlay.home.home import Home
from overlay.http.app import create_app
from overlay.http.backend import (
    REQUEST_ID_BYTES,
    Answered,
    AnswerEvent,
    Ask,
    ModelListing,
    Text,
)
from overlay.http.server import ApiServer
from overlay.identity.invites import JoinToken
from overlay.identity.multiaddr import Multiaddr, parse_announced, parse_listen
from overlay.identity.peer_id import PeerId
from overlay.joining import join_mesh
from overlay.limits import RELINK_S
from overlay.mesh import Mesh
from overlay.metrics import metrics
from overlay.standing import Standing, revocation_told
from overlay.status import lending, listings, status

log = logging.getLogger(__name__)


class Node:
    """A running node; made by `Node.start`. Implements `overlay.http.backend.Backend`."""

    def __init__(self, config: NodeConfig, home: Home) -> None:
        self.config = config
        self.home = home
        self.key = home.load_or_create_key()
        home.save_name(config.name)
        self._started_s = time.time()
        self._started = time.monotonic()
        self._clients: dict[bytes, asyncio.Queue[fwd.ClientEvent]] = {}
        self.standing = Standing(home, self.key)
        #: Joining and leaving take their time, and each begins with what is then.
        self._changing = asyncio.Lock()
        self._paused_since = home.paused_since()
        self._engines = EnginePool(
            hash_key=self.standing.membership.mesh_secret,
            on_event=self._engine_event,
            on_models=self._models_changed,
            options=EngineOptions(
                cells=config.cells,
                ram_bytes=config.ram_cache,
                disk=home.kv_cache if config.disk_cache else None,
                disk_bytes=config.disk_cache,
                models=max(1, len(config.models)),
            ),
        )
        self.admin_token = secrets.token_urlsafe(24)
        self._api: ApiServer | None = None
        self.api_url = ""
        self.listen: tuple[Multiaddr, ...] = ()
        self._address_book = AddressBook(
            home, lambda: self.mesh.contacts(), lambda: self.mesh.acquaintances.excluded
        )
        self.mesh = self._new_mesh()

    # --- Life ---------------------------------------------------------------------------------

    @classmethod
    async def start(
        cls,
        config: NodeConfig,
        progress: Progress | None = None,
        *,
        any_port: bool = False,
    ) -> Node:
        """Start everything and load the models; the node serves when this returns.

        ``any_port``: where a default port is taken, take a free one. Raises HomeInUse,
        AddressInUse, ConfigError, ModelFileInvalid, DownloadFailed, EngineFailed.
        """
        home = Home(config.home)
        try:
            home.lock()
            node = cls(config, home)
            try:
                await node._bind(any_port)
                await node._load_models(progress)
                home.write_runtime(api=node.api_url, admin_token=node.admin_token)
            except BaseException:
                await node.close()
                raise
        except BaseException:
            home.unlock()
            raise
        return node

    async def close(self) -> None:
        """Say goodbye, stop everything, release the home."""
        self.home.clear_runtime()
        if self._api is not None:
            await self._api.close()
        await self.mesh.close()
        self._address_book.close()
        await self._engines.close()
        self.home.unlock()

    async def _bind(self, any_port: bool) -> None:
        wanted = (parse_listen(self.config.listen),)
        await self._start_mesh(wanted, any_port=any_port and not self.config.listen_chosen)
        address = parse_listen(self.config.api)
        app = create_app(
            self,
            admin_token=self.admin_token,
            api_key=self.config.api_key,
            loopback=address.is_loopback,
        )
        server = ApiServer(app, address.host, address.port)
        try:
            host, port = await server.start()
        except AddressInUse:
            if not any_port or self.config.api_chosen:
                raise
            server = ApiServer(app, address.host, 0)
            host, port = await server.start()
        self._api = server
        self.api_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _start_mesh(self, listen: tuple[Multiaddr, ...], *, any_port: bool) -> None:
        try:
            self.listen = await self.mesh.start(listen)
        except AddressInUse:
            if not any_port:
                raise
            self.mesh = self._new_mesh()
            self.listen = await self.mesh.start([Multiaddr.of(a.host, 0) for a in listen])
        for peer, contact in self.home.peers().items():
            self.mesh.meet(peer, contact.addresses)

    async def _load_models(self, progress: Progress | None) -> None:
        store = ModelStore(self.config.store)

        def fetching(done_bytes: int, total_bytes: int) -> None:
            if progress is not None:
                progress("fetching the demo model", done_bytes / max(1, total_bytes))

        found = [
            await asyncio.to_thread(store.ensure, wanted, fetching) for wanted in self.config.models
        ]
        _check_names(found)
        self._check_private(found)
        for model in found:
            self._engines.expect(model)
        for model in found:
            await self._engines.load(model, progress)

    def _check_private(self, models: Sequence[ModelFile]) -> None:
        """A typo must not lend what was meant to stay at home. Raises ConfigError."""
        for name in self.config.terms.private:
            if not any(goes_by(name, model.name, model.aliases) for model in models):
                served = ", ".join(model.name for model in models) or "none"
                raise ConfigError(
                    f"no model here is named {name!r}, to be private; there is: {served}"
                )

    # --- Membership ---------------------------------------------------------------------------

    def _new_mesh(self) -> Mesh:
        standing = self.standing
        mesh = Mesh(
            node=LocalNode(self.key, standing.membership, self.config.name, ()),
            ledger=standing.ledger,
            revocations=standing.revocations,
            incarnation=self.home.next_incarnation(round(time.time() * 1000)),
            engines=self._engines,
            on_client_event=self._client_event,
            on_ledger=standing.save_ledger,
            on_revoked=standing.save_revocations,
            on_peers=self._address_book.changed,
            terms=self.config.terms,
            lan=self.config.lan,
            announce=tuple(map(parse_announced, self.config.announce)),
            map_port=self.config.map_port,
            relays=self.config.relay,
            rng=random.Random(secrets.randbits(64)),
        )
        if self.paused:
            mesh.pause()
        return mesh

    def invite(
        self, ttl_s: int, uses: int, label: str, *, may_invite: bool = True
    ) -> dict[str, Any]:
        addresses = self.mesh.addresses
        return self.standing.invite(ttl_s, uses, label, addresses, may_invite=may_invite)

    def invites(self) -> list[dict[str, Any]]:
        return self.standing.invites({peer: c.name for peer, c in self.mesh.contacts().items()})

    def cancel_invites(self, beginning: str | None) -> list[str]:
        return self.standing.cancel(beginning)

    def revoke(self, peer: PeerId) -> dict[str, Any]:
        contact, chain = self.mesh.contacts().get(peer), self.mesh.member.roll.chain(peer)
        revocation, record = self.standing.revocation(peer, chain)
        self.mesh.revoke(record)
        return {**revocation_told(revocation), "name": contact.name if contact else ""}

    async def join(self, token: str) -> dict[str, Any]:
        async with self._changing:
            joined = await join_mesh(self.home, JoinToken.parse(token), self.config.name)
            await self._change_mesh("it joined another mesh")
        return joined

    async def leave(self) -> dict[str, Any]:
        async with self._changing:
            left = self.standing.leave()
            await self._change_mesh("it left the mesh")
        return left

    async def _change_mesh(self, reason: str) -> None:
        self.standing = Standing(self.home, self.key)
        old, self.mesh = self.mesh, self._new_mesh()
        self._address_book.reread()
        for queue in self._clients.values():
            queue.put_nowait(fwd.Failure(Unreachable("the node is in another mesh now: ask again")))
        await old.close(reason)
        await self._start_mesh(self.listen, any_port=False)
        self._engines.set_hash_key(self.standing.membership.mesh_secret)

    # --- Lending ------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """The owner lends this machine to nobody, until `resume`; a restart changes nothing."""
        return self._paused_since is not None

    def pause(self, *, hand_back: bool) -> dict[str, Any]:
        if self._paused_since is None:
            since = time.time()
            self.home.save_paused(since)
            self._paused_since = since
        self.mesh.pause(hand_back=hand_back)
        return lending(self.mesh, self._paused_since)

    def resume(self) -> dict[str, Any]:
        self.home.save_paused(None)
        self._paused_since = None
        self.mesh.resume()
        return lending(self.mesh, None)

    # --- Answers ------------------------------------------------------------------------------

    async def ask(self, ask: Ask) -> AsyncGenerator[AnswerEvent, None]:
        model = ask.model or self.default_model()
        request_id = ask.request_id or secrets.token_bytes(REQUEST_ID_BYTES)
        queue: asyncio.Queue[fwd.ClientEvent] = asyncio.Queue()
        self._clients[request_id] = queue
        mesh = self.mesh
        try:
            mesh.submit(request_id, ask, model)
            while True:
                match await queue.get():
                    case fwd.TextDelta(text=text, logprobs=logprobs):
                        yield Text(text, logprobs)
                    case fwd.Failure(error=error):
                        raise error
                    case fwd.Answer() as answer:
                        yield self._answered(ask, model, answer)
                        return
        finally:
            del self._clients[request_id]
            mesh.cancel(request_id)

    def default_model(self) -> str:
        neighbourhood = self.mesh.member.neighbourhood
        # Or what is being started again, as the refusal says, or can be asked in a moment.
        since = self.mesh.now() - RELINK_S
        lost = [*self._engines.lost] or [*neighbourhood.offered(awaited_since=since)]
        # Of others' models what most branches serve: no one makes its own the one that all go by.
        names = [listing.name for listing in self.models()] or lost
        if not names:
            raise NoRoute.to_any_model(neighbourhood.why_few())
        return names[0]

    def _answered(self, ask: Ask, model: str, answer: fwd.Answer) -> Answered:
        neighbourhood = self.mesh.member.neighbourhood
        rate = neighbourhood.prefill_rate(answer.served_by, model)
        told = reply(answer, self._name_of, rate)
        if ask.explain:
            told["explanation"] = self._explained(answer.explanation)
        return Answered(
            reason=answer.reason,
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            completion_tokens=answer.completion_tokens,
            hearth=told,
        )

    def _name_of(self, peer: PeerId) -> str:
        own = peer == self.key.peer_id
        return self.config.name if own else self.mesh.member.neighbourhood.name_of(peer)

    def _explained(self, explanation: Explanation) -> dict[str, Any]:
        return explained(explanation, self._name_of, self.mesh.now())

    def _client_event(self, request_id: bytes, event: fwd.ClientEvent) -> None:
        queue = self._clients.get(request_id)
        if queue is not None:
            queue.put_nowait(event)

    def _engine_event(self, model: str, event: EngineEvent) -> None:
        self.mesh.engine_event(model, event)

    def _models_changed(self) -> None:
        self.mesh.models_changed()

    def engine(self, model: str) -> Engine | None:
        """The local engine that serves a model of this name."""
        return self._engines.get(model)

    # --- What clients may know ----------------------------------------------------------------

    def models(self) -> list[ModelListing]:
        return listings(self.mesh, round(self._started_s))

    def status(self) -> dict[str, Any]:
        return status(
            self.mesh,
            name=self.config.name,
            api=self.api_url,
            version=metadata.version("hearth-mesh"),
            uptime_s=time.monotonic() - self._started,
            paused_since_s=self._paused_since,
            met_before=self._address_book.known(),
        )

    def explanation(self, beginning: str | None) -> dict[str, Any]:
        kept = self.mesh.member.forwarder.explanations
        return self._explained(kept.latest() if beginning is None else kept.find(beginning))

    def explanations(self) -> list[dict[str, Any]]:
        kept, now = self.mesh.member.forwarder.explanations, self.mesh.now()
        return [overview(each, self._name_of, now) for each in kept]

    def metrics(self) -> bytes:
        return metrics(self.mesh)


async def serve(
    config: NodeConfig,
    stop: asyncio.Event,
    *,
    progress: Progress | None = None,
    ready: Callable[[Node], None],
    any_port: bool = False,
) -> None:
    """Run a node until ``stop`` is set; ``ready`` is called once, when it serves."""
    node = await Node.start(config, progress, any_port=any_port)
    try:
        ready(node)
        await stop.wait()
    finally:
        await node.close()


def _check_names(models: Sequence[ModelFile]) -> None:
    """A name means one model, or a private one could stand for another. Raises ConfigError."""
    for model, other in combinations(models, 2):
        names = {each.casefold() for each in (model.name, *model.aliases)}
        shared = names & {each.casefold() for each in (other.name, *other.aliases)}
        if shared:
            raise ConfigError(
                f"two models would answer to {min(shared)!r} ({model.path} and {other.path}): "
                "leave one out, or give its file another name"
            )
