"""Processes that are killed, stopped and started again."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from overlay.identity.multiaddr import Multiaddr
from overlay.transport.link import Direction
from overlay.wire.messages import Cancel
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
