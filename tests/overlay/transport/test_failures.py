"""Processes that are killed, stopped and started again."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import Mock

import pytest

from overlay.identity.multiaddr import Multiaddr
from overlay.limits import MESSAGE_BYTES_MAX
from overlay.transport import connection, link, transport
from overlay.transport.link import Direction
from overlay.transport.sockets import Connection
from overlay.wire.messages import Cancel, TokenFrame
from tests.overlay.transport.nodes import ANY_PORT, PATIENCE_S, Node, mesh


class Process:
    """``member``'s identity, in a process of its own."""

    def __init__(self, child: asyncio.subprocess.Process, address: Multiaddr) -> None:
        self.child = child
        self.address = address

    async def kill(self) -> None:
        self.child.kill()
        await self.child.wait()


@asynccontextmanager
async def process(
    member: Node, *, listen: Multiaddr = ANY_PORT, dial: Node | None = None
) -> AsyncIterator[Process]:
    membership = member.me.membership
    assert membership is not None
    orders = {
        "seed": member.key.seed.hex(),
        "founder": membership.founder.hex(),
        "mesh_secret": membership.mesh_secret.hex(),
        "certificates": [packed.hex() for packed in membership.certificates],
        "listen": str(listen),
        "dial": None if dial is None else [str(dial.peer_id), str(dial.addresses[0])],
    }
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.overlay.transport.peer_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(orders).encode() + b"\n")
        async with asyncio.timeout(PATIENCE_S):
            line = await child.stdout.readline()
        yield Process(child, Multiaddr.parse(line.decode().strip()))
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def echoed(node: Node, member: Node, message: Cancel) -> None:
    before = len(node.messages())
    assert node.transport.send(member.peer_id, message)
    assert await node.until_seen("received", before + 1) == message


async def test_a_killed_peer_that_we_dialled_is_noticed_and_comes_back() -> None:
    async with mesh(2) as (node, member):
        async with process(member) as first:
            node.transport.dial(member.peer_id, [first.address])
            await node.until_seen("up")
            await echoed(node, member, Cancel(b"before"))
            await first.kill()
            assert await node.until_seen("down") == "the connection broke"
            assert not node.transport.send(member.peer_id, Cancel(b"lost"))
        async with process(member, listen=first.address):
            await node.until_seen("up", 2)
            await echoed(node, member, Cancel(b"after"))
        assert [kind for kind, _, _ in node.events if kind != "received"][:3] == [
            "up",
            "down",
            "up",
        ]


async def test_a_killed_peer_that_dialled_us_is_noticed_and_comes_back() -> None:
    async with mesh(2) as (node, member):
        async with process(member, dial=node) as first:
            await node.until_seen("up")
            assert node.transport.links()[member.peer_id].direction is Direction.INCOMING
            await echoed(node, member, Cancel(b"before"))
            await first.kill()
            assert await node.until_seen("down") == "the connection broke"
        async with process(member, dial=node):
            await node.until_seen("up", 2)
            await echoed(node, member, Cancel(b"after"))


async def test_a_peer_that_stands_still_is_down_and_comes_back_when_it_goes_on() -> None:
    async with mesh(2) as (node, member), process(member, dial=node) as peer:
        await node.until_seen("up")
        peer.child.send_signal(signal.SIGSTOP)
        await node.until_seen("down")
        peer.child.send_signal(signal.SIGCONT)
        await node.until_seen("up", 2)
        await echoed(node, member, Cancel(b"after"))


class Uplink:
    """Carries a connection to a node, bit by bit once it is ``slow``."""

    PIECE_BYTES = 4096

    def __init__(self, node: Node) -> None:
        self._node = node
        self.slow = False
        #: What comes next is not what was sent.
        self.mangles = False

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self._node.addresses[0].port
        there = await asyncio.open_connection("127.0.0.1", port, limit=self.PIECE_BYTES)
        await asyncio.gather(self._carry(reader, there[1]), self._carry(there[0], writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(self.PIECE_BYTES):
            if self.mangles:
                piece = piece[:-1] + bytes([piece[-1] ^ 1])
            writer.write(piece)
            if self.slow:
                await asyncio.sleep(0.02)
        writer.close()


@asynccontextmanager
async def over_an_uplink() -> AsyncIterator[tuple[Node, Node, Uplink]]:
    """Two nodes, the first of which has dialled the other one through the uplink."""
    async with mesh(2) as (near, far):
        uplink = Uplink(far)
        server = await asyncio.start_server(uplink.accept, "127.0.0.1", 0, limit=Uplink.PIECE_BYTES)
        async with server:
            listening: socket.socket = server.sockets[0]
            port = int(listening.getsockname()[1])
            near.transport.dial(far.peer_id, [Multiaddr("ip4", "127.0.0.1", port)])
            await near.until_seen("up")
            await far.until_seen("up")
            yield near, far, uplink
            await near.transport.close()
            await far.transport.close()


@pytest.mark.parametrize("dialler_sends", [True, False])
async def test_what_comes_mangled_ends_the_link_which_comes_back(dialler_sends: bool) -> None:
    async with over_an_uplink() as (near, far, uplink):
        # What is said at first must not come behind, in one piece with it.
        await near.until(lambda: bool(near.measured))
        await far.until(lambda: bool(far.measured))
        uplink.mangles = True
        sender, receiver = (near, far) if dialler_sends else (far, near)
        assert sender.transport.send(receiver.peer_id, Cancel(b"mangled"))
        for node in (near, far):
            assert await node.until_seen("down") == "the connection broke"
        uplink.mangles = False
        for node in (near, far):
            await node.until_seen("up", 2)
        assert sender.transport.send(receiver.peer_id, Cancel(b"whole"))
        assert await receiver.until_seen("received") == Cancel(b"whole")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links take silence for the end after half a second."""
    for module in (link, connection):
        monkeypatch.setattr(module, "SILENCE_S", 0.5)
    for module in (link, connection, transport):
        monkeypatch.setattr(module, "PING_INTERVAL_S", 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("dialler_sends", [True, False])
async def test_a_long_message_over_a_slow_uplink_is_no_silence(dialler_sends: bool) -> None:
    async with over_an_uplink() as (near, far, uplink):
        uplink.slow = True
        sender, receiver = (near, far) if dialler_sends else (far, near)
        long = TokenFrame(b"r", 0, (1,), "x" * (MESSAGE_BYTES_MAX // 4))
        assert sender.transport.send(receiver.peer_id, long)
        await receiver.until(lambda: bool(receiver.seen("received") or receiver.seen("down")))
        assert receiver.messages() == [long]
        assert near.seen("down") == far.seen("down") == []


@pytest.mark.usefixtures("impatient")
async def test_more_than_a_message_without_an_end_is_silence() -> None:
    """libzmq keeps all parts of what has no end."""
    async with mesh(2) as (near, far):
        near.dial(far)
        await near.until_seen("up")
        [line] = near.transport._links._lines
        begun = line.link._heard
        line.connection = Mock(Connection)
        received = [0, 1, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX + 1]
        line.connection.received_bytes.side_effect = received
        arriving = [line._arriving(begun + after_s) for after_s in (0.45, 0.55, 0.65, 0.75)]
        assert arriving == [False, True, True, False]
