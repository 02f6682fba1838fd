"""A peer without a transport: a bare CURVE socket that says whatever a test wants."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import zmq
import zmq.asyncio

from overlay.admission.handshake import Handshake, LocalNode, Reply, Role
from overlay.identity.invites import NONCE_BYTES, InviteLedger
from overlay.identity.keys import NodeKey, curve_public
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations
from overlay.transport.sockets import Monitor
from overlay.wire.codec import decode, encode
from overlay.wire.messages import Hello, Message
from tests.overlay.transport.nodes import PATIENCE_S, Node


class Target(Protocol):
    """Whom to connect to."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def addresses(self) -> list[Multiaddr]: ...


class RawPeer:
    def __init__(self, dealer: zmq.asyncio.Socket, monitor: Monitor) -> None:
        self.dealer = dealer
        self._monitor = monitor

    async def send(self, *frames: bytes) -> None:
        await self.dealer.send_multipart(list(frames))

    async def receive(self) -> Message:
        async with asyncio.timeout(PATIENCE_S):
            [data] = await self.dealer.recv_multipart()
            return decode(data)

    async def cut(self) -> None:
        """Wait for the other side to end the connection."""
        async with asyncio.timeout(PATIENCE_S):
            await self._monitor.ended()


@asynccontextmanager
async def raw_peer(
    node: Target,
    key: NodeKey,
    *,
    expected: PeerId | None = None,
    rcvhwm: int = 1000,
    source: str = "",
    routing_id: bytes = b"",
) -> AsyncIterator[RawPeer]:
    """Connected to ``node``, CURVE handshake done. Raises ConnectionError.

    ``source``: from this address, if there are several. ``routing_id``: what ZeroMQ is to call it.
    """
    context = zmq.asyncio.Context()
    dealer: zmq.asyncio.Socket = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.rcvhwm = rcvhwm
    dealer.reconnect_ivl = -1
    if routing_id:
        dealer.routing_id = routing_id
    dealer.curve_serverkey = curve_public(expected or node.peer_id)
    dealer.curve_publickey = curve_public(key.peer_id)
    dealer.curve_secretkey = key.curve_secret
    monitor = Monitor(dealer)
    endpoint = node.addresses[0].endpoint
    dealer.connect(endpoint.replace("tcp://", f"tcp://{source}:0;") if source else endpoint)
    try:
        async with asyncio.timeout(PATIENCE_S):
            failure = await monitor.connected()
        if failure is not None:
            raise ConnectionError(failure)
        yield RawPeer(dealer, monitor)
    finally:
        monitor.close()
        dealer.close(linger=0)
        context.term()


def hello_of(me: LocalNode) -> Hello:
    """The Hello with which a node dials."""
    handshake = Handshake(
        role=Role.DIALER,
        me=me,
        remote_curve=bytes(32),
        token=None,
        ledger=InviteLedger(me.key.peer_id),
        revocations=Revocations(me.key.peer_id),
        nonce=secrets.token_bytes(NONCE_BYTES),
        now=time.monotonic(),
    )
    [effect] = handshake.open()
    assert isinstance(effect, Reply)
    assert isinstance(effect.message, Hello)
    return effect.message


async def admitted(raw: RawPeer, node: Node, me: LocalNode) -> None:
    """Say hello as the member ``me`` and wait until ``node`` has the link."""
    await raw.send(encode(hello_of(me)))
    assert isinstance(await raw.receive(), Hello)
    await node.until(lambda: me.key.peer_id in node.transport.links())
