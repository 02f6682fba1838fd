"""Nodes with nothing but a transport: real sockets on loopback, real CURVE, real certificates."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from overlay.admission.handshake import LocalNode
from overlay.identity.branches import Lineage
from overlay.identity.certificates import Membership, found_mesh, issue
from overlay.identity.invites import InviteLedger
from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations
from overlay.transport.transport import Transport
from overlay.wire.messages import Hello, Message

#: Nothing here takes so long unless it hangs.
PATIENCE_S = 30.0
ANY_PORT = Multiaddr("ip4", "127.0.0.1", 0)


class Node:
    """A member that records what its transport tells it."""

    def __init__(self, key: NodeKey, membership: Membership | None, name: str) -> None:
        self.key = key
        self.me = LocalNode(key, membership, name, ())
        self.ledger = InviteLedger(key.peer_id)
        self.ledger_writes = 0
        #: Of others, as far as it knows.
        self.lineages: dict[PeerId, Lineage] = {}
        self.revocations = Revocations(membership.founder if membership else key.peer_id)
        self.on_ledger: Callable[[], None] = self._write_ledger
        self.events: list[tuple[str, PeerId, str | Hello | Message]] = []
        self.measured: list[tuple[PeerId, float]] = []
        self.shown: list[bytes] = []
        self.shown_by: list[str] = []
        self._news = asyncio.Event()
        self.transport = Transport(
            node=lambda: self.me,
            ledger=self.ledger,
            revocations=self.revocations,
            on_ledger=lambda: self.on_ledger(),
            observer=self,
            lineage=lambda peer: self.lineages.get(peer),
            rng=random.Random(1),
        )
        self.addresses: list[Multiaddr] = []

    @property
    def peer_id(self) -> PeerId:
        return self.key.peer_id

    async def start(self, listen: Multiaddr = ANY_PORT) -> None:
        self.addresses = await self.transport.start([listen])

    def dial(self, other: Node) -> None:
        self.transport.dial(other.peer_id, other.addresses)

    # LinkObserver

    def link_up(self, peer: PeerId, hello: Hello, lineage: Lineage) -> None:
        self._note("up", peer, hello)

    def link_measured(self, peer: PeerId, rtt_ms: float) -> None:
        self.measured.append((peer, rtt_ms))
        self._news.set()

    def link_down(self, peer: PeerId, reason: str) -> None:
        self._note("down", peer, reason)

    def received(self, peer: PeerId, message: Message, size: int) -> None:
        assert size > 0
        self._note("received", peer, message)

    def revocation_shown(self, by: str, record: bytes) -> None:
        self.shown_by.append(by)
        self.shown.append(record)
        self._news.set()

    def _note(self, kind: str, peer: PeerId, detail: str | Hello | Message) -> None:
        self.events.append((kind, peer, detail))
        self._news.set()

    def _write_ledger(self) -> None:
        self.ledger_writes += 1

    # What tests wait for

    def seen(self, kind: str) -> list[tuple[PeerId, str | Hello | Message]]:
        return [(peer, detail) for what, peer, detail in self.events if what == kind]

    def messages(self) -> list[Message | str | Hello]:
        return [detail for _, detail in self.seen("received")]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for events until the condition holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_seen(self, kind: str, count: int = 1) -> str | Hello | Message:
        """The detail of the ``count``-th event of a kind."""
        await self.until(lambda: len(self.seen(kind)) >= count)
        return self.seen(kind)[count - 1][1]


def keys() -> Iterator[NodeKey]:
    while True:
        yield NodeKey.from_seed(secrets.token_bytes(32))


def let_in(key: NodeKey, by: LocalNode) -> Membership:
    """What makes whoever has the key a member."""
    mine = by.membership
    assert mine is not None
    chain = issue(by.key, mine, key.peer_id, time.time())
    return Membership(mine.founder, mine.mesh_secret, chain)


@asynccontextmanager
async def mesh(count: int) -> AsyncIterator[list[Node]]:
    """``count`` members of one mesh, listening, not linked yet; the first is the founder."""
    fresh = keys()
    founder = next(fresh)
    founded = found_mesh(founder, secrets.token_bytes(32))
    async with AsyncExitStack() as stack:
        nodes = [Node(founder, founded, "founder")]
        for index in range(1, count):
            key = next(fresh)
            nodes.append(Node(key, let_in(key, nodes[0].me), f"member {index}"))
        for node in nodes:
            await node.start()
            stack.push_async_callback(node.transport.close)
        yield nodes


async def eventually(condition: Callable[[], bool]) -> None:
    """For what no event tells."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def linked(one: Node, other: Node) -> None:
    """``one`` dials ``other``; both see the link."""
    one.dial(other)
    await one.until(lambda: other.peer_id in one.transport.links())
    await other.until(lambda: one.peer_id in other.transport.links())
