"""Nodes that come back elsewhere, or after a long sleep: real processes, without models."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.nodes import RunningNode, command, token_of, until, up

pytestmark = pytest.mark.timeout(300)

NO_MODEL = ("--model", "none")


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[RunningNode]]:
    found = [RunningNode(tmp_path / name, name, NO_MODEL) for name in ("ann", "bob", "cyd")]
    try:
        yield found
    finally:
        for node in found:
            if node.process is not None:
                node.process.send_signal(signal.SIGCONT)
                await node.stop()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


async def met(inviter: RunningNode, *others: RunningNode) -> None:
    """Start all; they are linked with one another."""
    await inviter.start()
    token = await token_of(inviter, "--uses", str(len(others)))
    for other in others:
        await command(other, "join", token)
        await other.start()
    for one in (inviter, *others):
        for other in (inviter, *others):
            if one is not other:
                await up(one, other.name)


async def addresses(node: RunningNode, of: str) -> list[str]:
    peer = await node.peer(of)
    assert peer is not None
    return list(peer["addresses"])


async def test_links_over_ipv6_and_to_a_name(nodes: list[RunningNode]) -> None:
    ann, bob, _ = nodes
    # The first address is what the name of a router is to others: of no use here, but dialled.
    ann.args = (*NO_MODEL, "--listen", "[::1]:0", "--announce", "/dns4/localhost/tcp/9")
    bob.args = (*NO_MODEL, "--listen", "127.0.0.1:0")
    await met(ann, bob)
    first, second = await addresses(bob, "ann")
    assert first.startswith("/ip6/::1/tcp/")
    assert second == "/dns4/localhost/tcp/9"
    assert (await bob.peer("ann") or {})["link"] == "outgoing"


async def test_a_link_to_nothing_but_a_name(nodes: list[RunningNode], free_port: int) -> None:
    ann, bob, _ = nodes
    name = f"/dns4/localhost/tcp/{free_port}"
    ann.args = (*NO_MODEL, "--listen", f"127.0.0.1:{free_port}", "--announce", name)
    await met(ann, bob)
    await bob.stop()
    # As if the numbers of a year ago were another machine's by now.
    peers = bob.home / "peers.json"
    told = peers.read_text()
    assert name in told
    peers.write_text(told.replace(f'"/ip4/127.0.0.1/tcp/{free_port}",', ""))
    assert f"/ip4/127.0.0.1/tcp/{free_port}" not in peers.read_text()
    await bob.start()
    assert (await up(bob, "ann"))["link"] == "outgoing"


async def test_who_restarts_on_another_port_is_found_again(nodes: list[RunningNode]) -> None:
    ann, bob, cyd = nodes
    await met(ann, bob, cyd)
    before = {*await addresses(cyd, "ann"), *await addresses(cyd, "bob")}
    for node in (ann, bob):
        await node.stop()
    for node in (ann, bob):
        await node.start()
    # Neither knows where the other one is now; both know Cyd, who has stayed.
    for one, other in ((ann, bob), (bob, ann), (cyd, ann), (cyd, bob)):
        await up(one, other.name)

        async def moved(one: RunningNode = one, of: str = other.name) -> bool:
            return before.isdisjoint(await addresses(one, of))

        await until(moved, f"{one.name} is told where {other.name} is now")
    assert await addresses(bob, "ann") == await addresses(cyd, "ann")


async def test_who_sleeps_is_missed_and_back_at_once(nodes: list[RunningNode]) -> None:
    ann, bob, cyd = nodes
    await met(ann, bob, cyd)
    assert bob.process is not None
    bob.process.send_signal(signal.SIGSTOP)

    async def missed() -> bool:
        states = [(await node.peer("bob") or {})["state"] for node in (ann, cyd)]
        return states == ["DOWN", "DOWN"]

    await until(missed, "Bob, asleep, is DOWN")
    bob.process.send_signal(signal.SIGCONT)

    async def back() -> bool:
        for one, other in ((ann, "bob"), (cyd, "bob"), (bob, "ann"), (bob, "cyd")):
            peer = await one.peer(other) or {}
            if peer["state"] != "UP" or peer["link"] is None or peer["rtt_ms"] is None:
                return False
        return True

    await until(back, "Bob, awake, is linked with all")
    # And not only for a moment: several rounds of gossip later it holds.
    rounds = (await bob.status())["uptime_s"] + 5

    async def later() -> bool:
        return bool((await bob.status())["uptime_s"] >= rounds)

    await until(later, "some rounds have passed")
    assert await back()
