"""A victim in a process of its own, an honest member, and what attackers are made of."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from models.engine import Sampling
from overlay.admission.handshake import LocalNode
from overlay.engines import EnginePool
from overlay.forwarding import effects as fwd
from overlay.forwarding.terms import NO_BOUNDS
from overlay.home.home import Home
from overlay.http.backend import Ask
from overlay.identity.certificates import Membership, issue
from overlay.identity.invites import InviteLedger
from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations
from overlay.mesh import Mesh
from overlay.standing import Standing
from overlay.wire.codec import decode, encode
from overlay.wire.messages import Hello, Message, Ping, Pong
from tests.overlay.transport.nodes import ANY_PORT, PATIENCE_S, keys
from tests.overlay.transport.raw import RawPeer, hello_of, raw_peer

#: Whether attacks come in full strength, and the honest member's latency is compared.
FULL: Final = os.environ.get("HEARTH_CHAOS") == "full"
#: What one attack may cost the victim in memory. Its budgets bound what waits of one peer
#: (PARKED_BYTES_MAX: 32 MiB), of all records (REPLICAS_BYTES_MAX: about four times as much, as
#: Python keeps them), and ZeroMQ's buffers for STRANGERS_MAX connections. The short attacks
#: stay far below.
GROWTH_BYTES_MAX: Final = (600 if FULL else 64) << 20
#: How much slower an honest member's request may be while an attacker is there, with what a
#: scheduler's tick is off.
SLOWDOWN_MAX: Final = 1.2
_TICK_S: Final = 0.002
_ROUNDS: Final = 101
#: An honest member takes its time, or it would exceed its own budgets.
_PAUSE_S: Final = 0.005
_KEYS: Final = keys()


def strength(short: int, full: int) -> int:
    """How often to do something."""
    return full if FULL else short


@dataclass
class Victim:
    """A node that is attacked, and what is known of it from outside."""

    process: subprocess.Popen[str]
    log: Path
    founder: NodeKey
    membership: Membership
    address: Multiaddr
    api: str
    model: str
    token: str

    @property
    def peer_id(self) -> PeerId:
        return self.founder.peer_id

    @property
    def addresses(self) -> list[Multiaddr]:
        return [self.address]

    def member(self, name: str, key: NodeKey | None = None) -> LocalNode:
        """A new member of its mesh."""
        key = key or next(_KEYS)
        chain = issue(self.founder, self.membership, key.peer_id, time.time())
        membership = Membership(self.membership.founder, self.membership.mesh_secret, chain)
        return LocalNode(key, membership, name, ())

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return int(psutil.Process(self.process.pid).num_fds())

    def said(self) -> str:
        return self.log.read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def start_victim(folder: Path, model: Path) -> Victim:
    """The founder of a mesh, with an invite for one that nobody has used yet."""
    home = Home(folder / "home")
    key = home.load_or_create_key()
    standing = Standing(home, key)
    told = standing.invite(3600, 1, "", [Multiaddr("ip4", "127.0.0.1", 7710)], may_invite=False)
    log = folder / "victim.log"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.chaos.victim_node", "up", "--home", str(home.path)),
            *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--no-lan"),
            *("--model", str(model)),
        ],
        stdout=subprocess.PIPE,
        stderr=log.open("w"),
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            words = dict(word.split("=", 1) for word in line.split() if "=" in word)
            break
    else:
        raise AssertionError(log.read_text())
    host, _, port = words["listen"].partition(":")
    address = Multiaddr("ip4", host, int(port))
    return Victim(
        process, log, key, standing.membership, address, words["api"], model.stem, told["token"]
    )


class Honest:
    """A member that only wants to be answered: the product's own mesh, without a model."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self._answers: dict[bytes, asyncio.Future[fwd.ClientEvent]] = {}
        node = victim.member("honest")
        assert node.membership is not None
        self.mesh = Mesh(
            node=node,
            ledger=InviteLedger(node.key.peer_id),
            revocations=Revocations(victim.peer_id),
            incarnation=int(time.time() * 1000),
            engines=EnginePool(
                hash_key=node.membership.mesh_secret,
                on_event=lambda model, event: None,
                on_models=lambda: None,
            ),
            on_client_event=self._client_event,
            on_ledger=lambda: None,
            on_revoked=lambda: None,
            on_peers=lambda: None,
            terms=NO_BOUNDS,
            lan=False,
            announce=(),
            map_port=False,
            rng=random.Random(1),
        )

    def _client_event(self, request_id: bytes, event: fwd.ClientEvent) -> None:
        if not isinstance(event, fwd.TextDelta):
            self._answers[request_id].set_result(event)

    async def ask(self) -> float:
        """Ask the victim; the seconds until its answer was whole."""
        request_id = secrets.token_bytes(16)
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        ask = Ask(None, "How are you?", Sampling(max_tokens=8))
        self.mesh.submit(request_id, ask, self._victim.model)
        async with asyncio.timeout(PATIENCE_S):
            event = await answer
        assert isinstance(event, fwd.Answer), event
        assert event.served_by == self._victim.peer_id
        return time.perf_counter() - begun

    async def linked(self) -> None:
        """Wait until the victim is there and known to serve its model."""
        async with asyncio.timeout(PATIENCE_S):
            peer, model = self._victim.peer_id, self._victim.model
            while self.mesh.look_around().card_of(peer, model) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def latency_s(self) -> float:
        """The median of so many requests, one after the other."""
        taken_s = []
        for _ in range(_ROUNDS):
            taken_s.append(await self.ask())
            await asyncio.sleep(_PAUSE_S)
        return statistics.median(taken_s)


@asynccontextmanager
async def honest_member(victim: Victim) -> AsyncIterator[Honest]:
    honest = Honest(victim)
    await honest.mesh.start([ANY_PORT])
    try:
        honest.mesh.meet(victim.peer_id, [victim.address])
        await honest.linked()
        yield honest
    finally:
        await honest.mesh.close()


@asynccontextmanager
async def under_attack(victim: Victim, honest: Honest) -> AsyncIterator[None]:
    """Within, the attack; at its end, while the attacker still is there, all must be well."""
    before_s = await honest.latency_s() if FULL else 0.0
    rss_bytes = victim.rss_bytes()
    yield
    await honest.linked()
    await honest.ask()
    assert victim.peer_id in honest.mesh.transport.links()
    if FULL:
        after_s = await honest.latency_s()
        assert after_s <= SLOWDOWN_MAX * before_s + _TICK_S, (before_s, after_s)
    assert victim.process.poll() is None, victim.said()
    assert victim.rss_bytes() - rss_bytes < GROWTH_BYTES_MAX
    assert "Traceback" not in victim.said()


async def named(victim: Victim, *words: object) -> str:
    """Wait for a line of the victim's log with all the words in it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for line in victim.said().splitlines():
                if all(str(word) in line for word in words):
                    return line
            await asyncio.sleep(0.02)


# --- Attackers ----------------------------------------------------------------------------------


@asynccontextmanager
async def attacker(
    victim: Victim, me: LocalNode | None = None, source: str = ""
) -> AsyncIterator[Attacker]:
    """A link to the victim that is up, to be abused."""
    me = me or victim.member("attacker")
    async with raw_peer(victim, me.key, source=source) as raw:
        await raw.send(encode(hello_of(me)))
        assert isinstance(await raw.receive(), Hello)
        found = Attacker(me, raw)
        reading = asyncio.create_task(found.read())
        try:
            yield found
        finally:
            reading.cancel()
            await asyncio.wait({reading})


class Attacker:
    """A member in good standing that says whatever it likes. It answers pings, to be kept."""

    def __init__(self, me: LocalNode, raw: RawPeer) -> None:
        self.me = me
        self.raw = raw
        self._heard: asyncio.Queue[Message] = asyncio.Queue()

    @property
    def peer_id(self) -> PeerId:
        return self.me.key.peer_id

    async def read(self) -> None:
        while True:
            [data] = await self.raw.dealer.recv_multipart()
            message = decode(data)
            if isinstance(message, Ping):
                await self.say(Pong(message.nonce))
            self._heard.put_nowait(message)

    async def say(self, *messages: Message) -> None:
        for message in messages:
            await self.raw.send(encode(message))
            await asyncio.sleep(0)  # While there is room in its queue, to send suspends nobody.

    async def hear(self, *kinds: type[Message]) -> Message:
        """The next message of one of the kinds."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self._heard.get()
                if isinstance(message, kinds):
                    return message

    async def heard(self) -> None:
        """Wait until the victim has read all that was said so far."""
        nonce = secrets.randbits(60)
        await self.say(Ping(nonce))
        while await self.hear(Pong) != Pong(nonce):
            pass


def stranger_sources(first: int = 1) -> Iterator[str]:
    """Loopback addresses that nobody has used yet: the victim bounds what comes from one.

    ``first``: those of 127.FIRST.0.0 and up.
    """
    for number in itertools.count(1):
        yield f"127.{first + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
