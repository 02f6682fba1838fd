"""Two nodes behind NATs of their own, and one in public: real processes, real masquerade."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.nodes import Finished, RunningNode, hearth, until
from tests.support.namespaces import CannotBuild, Network, network

#: Of an answer that says nothing.
SHORT = ("--max-tokens", "8")

pytestmark = pytest.mark.timeout(300)


@dataclass
class FarNode(RunningNode):
    """A node on a machine that this one has no route to: only its own commands reach it."""

    async def status(self) -> dict[str, Any]:
        return dict((await self.command("status", "--json")).json)

    async def command(self, name: str, *arguments: str) -> Finished:
        finished = await hearth(name, *arguments, "--home", str(self.home), within=self.within)
        assert finished.code == 0, finished.err + finished.out
        return finished

    async def linked(self, name: str, relay: str | None) -> dict[str, Any]:
        """Wait for a link to a peer: through that relay, or a direct one."""

        async def there() -> dict[str, Any] | None:
            peer = await self.peer(name)
            up = peer and peer["link"] and peer["rtt_ms"] is not None
            return peer if peer and up and peer["relay"] == relay else None

        return dict(await until(there, f"{self.name} has a link to {name} via {relay}"))


@pytest.fixture
def machines() -> Iterator[Network]:
    try:
        with network() as built:
            yield built
    except CannotBuild as error:
        pytest.skip(f"no network namespaces with NAT here: {error}")


@pytest.fixture
async def nodes(
    tmp_path: Path, machines: Network, tiny_model: Path
) -> AsyncIterator[list[FarNode]]:
    """Hub, left and right; only right has a model. None is started."""
    found = [
        FarNode(
            *(tmp_path / name, name),
            args=("--listen", f"{machines.address[name]}:7710", "--model", model),
            within=machines.within(name),
        )
        for name, model in (("hub", "none"), ("left", "none"), ("right", str(tiny_model)))
    ]
    try:
        yield found
    finally:
        for node in found:
            if node.process is not None:
                await node.stop()


async def test_behind_two_nats(nodes: list[FarNode], machines: Network) -> None:
    hub, left, right = nodes
    await hub.start()
    token = (await hub.command("invite", "--uses", "2", "--json")).json["token"]
    for node in (left, right):
        await node.command("join", str(token))
        await node.start()
        # Whoever is behind a NAT is reached over the link that it opened.
        assert (await node.linked("hub", None))["link"] == "outgoing"
        assert (await hub.linked(node.name, None))["link"] == "incoming"

    hub_id = (await hub.status())["peer_id"]
    right_id = (await right.status())["peer_id"]
    await left.linked("right", hub_id)
    await right.linked("left", hub_id)
    assert "relayed via hub" in (await left.command("status")).out
    # The hub asks one that it cannot dial, and so does left, through the hub that reads nothing.
    for node in (hub, left):
        answer = (await node.command("ask", "Say hello.", "--json", *SHORT)).json
        assert answer["hearth"]["served_by"] == right_id
    relayed = (await hub.status())["relayed"]
    assert relayed["bytes"] > 1000
    assert relayed["refused"] == 0

    machines.join_lans()
    await left.linked("right", None)
    await right.linked("left", None)
    answer = (await left.command("ask", "Say hello again.", "--json", *SHORT)).json
    assert answer["hearth"]["served_by"] == right_id

    machines.part_lans()
    await left.linked("right", hub_id)
    await right.linked("left", hub_id)


async def test_a_router_that_forwards_the_port(nodes: list[FarNode], machines: Network) -> None:
    hub, left, right = nodes
    machines.forward_port("right", 7710)
    await hub.start()
    token = (await hub.command("invite", "--uses", "2", "--json")).json["token"]
    for node in (right, left):
        await node.command("join", str(token))
        await node.start()
    # Right learns from the hub where it is seen, has it dial back, and tells everybody.
    assert (await left.linked("right", None))["link"] == "outgoing"
    status = await right.status()
    assert "/ip4/192.0.1.3/tcp/7710" in status["listen"]
    assert all(seen.startswith("/ip4/192.0.1.3/tcp/") for seen in status["observed"])
    # Left is seen as well, but its router passes nothing on.
    status = await left.status()
    assert status["observed"]
    assert [each for each in status["listen"] if "192.0.1." in each] == []


async def test_a_router_that_is_asked_for_the_port(
    nodes: list[FarNode], machines: Network, tmp_path: Path
) -> None:
    hub, left, right = nodes
    right.args = (*right.args, "--map-port")
    try:
        with machines.upnp("right", tmp_path) as rules:
            await hub.start()
            token = (await hub.command("invite", "--uses", "2", "--json")).json["token"]
            for node in (right, left):
                await node.command("join", str(token))
                await node.start()

            async def mapped() -> Any:
                return (await right.status())["port_mapping"]["external"]

            assert await until(mapped, "the router passes a port on") == "/ip4/192.0.1.3/tcp/7710"
            assert "dnat" in rules()
            assert "/ip4/192.0.1.3/tcp/7710" in (await right.status())["listen"]
            assert (await left.linked("right", None))["link"] == "outgoing"
            await right.stop()
            assert "dnat" not in rules()
    except CannotBuild as error:
        pytest.skip(f"no router with UPnP here: {error}")


async def test_a_machine_that_gets_another_address(nodes: list[FarNode], machines: Network) -> None:
    hub, _, right = nodes
    right.args = (*right.args, "--listen", "0.0.0.0:7710", "--model", "none")
    await hub.start()
    token = (await hub.command("invite", "--json")).json["token"]
    await right.command("join", str(token))
    await right.start()
    await right.linked("hub", None)
    old = f"/ip4/{machines.address['right']}/tcp/7710"
    assert (await right.status())["listen"][0] == old

    new = f"/ip4/{machines.readdress('right', 77)}/tcp/7710"

    async def told() -> bool:
        peer = next(p for p in (await hub.status())["peers"] if p["name"] == "right")
        return new in peer["addresses"] and old not in peer["addresses"]

    await until(told, "the hub hears of the new address, over a new link")
    assert (await right.status())["listen"][0] == new
    await hub.linked("right", None)
