"""Who belongs to a mesh, on real processes: thrown out, coming back, without the founder, apart."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from overlay.limits import GOSSIP_INTERVAL_S
from tests.e2e.nodes import RunningNode, command, ending, hearth, token_of, until, up

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[RunningNode]]:
    """Ann, Bob, Cyd and Dan, who serve no models; none is started."""
    names = ("ann", "bob", "cyd", "dan")
    found = [RunningNode(tmp_path / name, name, ("--model", "none")) for name in names]
    async with ending(found):
        yield found


async def join(inviter: RunningNode, joiner: RunningNode, *options: str) -> str:
    """Join with a fresh token of the inviter, which is returned."""
    token = await token_of(inviter, *options)
    await command(joiner, "join", token)
    return token


async def known(node: RunningNode, name: str) -> bool:
    return await node.peer(name) is not None


async def gone(node: RunningNode, name: str) -> None:
    """Wait until the node knows nothing of a peer."""

    async def unknown() -> bool:
        return not await known(node, name)

    await until(unknown, f"{node.name} forgets {name}")


async def revoked(node: RunningNode) -> dict[str, Any]:
    """Wait until the node knows that it was thrown out; what ended its membership."""

    async def told() -> Any:
        return (await node.status())["revoked"]

    return dict(await until(told, f"{node.name} is told"))


def listening(node: RunningNode) -> str:
    """Where its peers reach a node, as ``--listen`` takes it."""
    return next(
        word.removeprefix("listen=")
        for word in node.ready_line.split()
        if word.startswith("listen=")
    )


def log_of(node: RunningNode) -> str:
    return (node.home.parent / f"{node.name}.log").read_text()


async def test_thrown_out_and_back_again(nodes: list[RunningNode]) -> None:
    ann, bob, cyd, dan = nodes
    await ann.start()
    old = await join(ann, bob, "--uses", "2")
    await bob.start()
    # Cyd joins through Bob, and Dan through Ann.
    await join(bob, cyd)
    await cyd.start()
    await join(ann, dan)
    await dan.start()
    for one in nodes:
        for other in nodes:
            if one is not other:
                await up(one, other.name)
    bob_id = (await bob.status())["peer_id"]
    ann_id = (await ann.status())["peer_id"]

    begun = time.monotonic()
    told = await command(ann, "revoke", "bob")
    assert (told["peer_id"], told["name"]) == (bob_id, "bob")
    for node in (ann, dan):
        for name in ("bob", "cyd"):
            await gone(node, name)
    assert (await revoked(bob))["by"] == ann_id
    assert (await revoked(cyd))["peer_id"] == bob_id
    print(f"cut off in {(time.monotonic() - begun) / GOSSIP_INTERVAL_S:.1f} rounds")
    await up(ann, "dan")
    told = f"the membership of bob ({bob_id}) was revoked by ann ({ann_id})"
    assert log_of(dan).count(told) == 1
    assert "bob is UP" in log_of(ann)
    assert "this node is on its own now" in log_of(bob)

    async def alone() -> bool:
        return all(peer["link"] is None for peer in (await bob.status())["peers"])

    await until(alone, "Bob has no links")

    # Neither its certificate brings it back, though it forgot that it is void, nor its old token.
    await bob.stop()
    (bob.home / "revocations.json").unlink()
    await bob.start()
    assert (await revoked(bob))["by"] == ann_id
    assert not await known(ann, "bob")
    refused = await hearth("join", old, "--home", str(bob.home), "--json")
    assert (refused.code, refused.json["error"]["code"]) == (1, "revoked")
    assert "this invite is older" in refused.json["error"]["message"]

    # A new one does; Dan, who has no token for it, hears of it too. Cyd stays out.
    await join(dan, bob)
    for node, name in ((ann, "bob"), (dan, "bob"), (bob, "ann"), (bob, "dan")):
        await up(node, name)
    assert (await bob.status())["revoked"] is None
    assert not await known(ann, "cyd")


async def test_thrown_out_while_both_are_away(nodes: list[RunningNode]) -> None:
    ann, bob, cyd, _ = nodes
    await ann.start()
    for node in (bob, cyd):
        await join(ann, node)
        await node.start()
        await up(ann, node.name)
    await up(bob, "cyd")
    await bob.stop()
    await ann.stop()
    # Ann's node is off when she throws Bob out, and his is when it hears of it.
    told = await command(ann, "revoke", "bob")
    await ann.start()

    async def cyd_knows() -> bool:
        heard = (await cyd.status())["revocations"]
        return [each["peer_id"] for each in heard] == [told["peer_id"]]

    await until(cyd_knows, "Cyd hears of it")
    await gone(cyd, "bob")
    await ann.stop()
    # Cyd alone is there to tell him.
    await bob.start()
    assert (await revoked(bob))["by"] == told["by"]
    assert not await known(cyd, "bob")


async def test_the_mesh_lives_on_while_the_founder_is_away(nodes: list[RunningNode]) -> None:
    ann, bob, cyd, _ = nodes
    await ann.start()
    await join(ann, bob)
    await bob.start()
    await up(bob, "ann")
    await up(ann, "bob")
    await ann.stop()

    await join(bob, cyd)
    await cyd.start()
    await up(bob, "cyd")
    await up(cyd, "bob")
    # They find each other again after a restart of both, where they were before.
    for node in (bob, cyd):
        node.args += ("--listen", listening(node))
        await node.stop()
    for node in (bob, cyd):
        await node.start()
    await up(bob, "cyd")

    # The founder is back, and meets whom it never saw.
    await ann.start()
    await up(ann, "cyd")
    await up(cyd, "ann")
    assert (await cyd.status())["mesh_id"] == (await ann.status())["mesh_id"]


async def test_leaving_and_coming_back(nodes: list[RunningNode]) -> None:
    ann, bob, cyd, _ = nodes
    await ann.start()
    await join(ann, bob)
    await bob.start()
    await join(bob, cyd)
    await cyd.start()
    await up(ann, "cyd")
    mesh_id = (await ann.status())["mesh_id"]
    assert (await command(bob, "leave"))["mesh_id"] == mesh_id

    async def has_left() -> bool:
        return (await ann.peer("bob") or {}).get("state") == "LEFT"

    await until(has_left, "Ann sees Bob leave")
    own = (await bob.status())["mesh_id"]
    assert own != mesh_id
    # Whom Bob let in stays.
    await up(ann, "cyd")
    await bob.stop()
    await bob.start()
    assert (await bob.status())["mesh_id"] == own
    await join(ann, bob)
    await up(bob, "ann")
    await up(bob, "cyd")
    assert (await bob.status())["mesh_id"] == mesh_id
    refused = await hearth("leave", "--home", str(ann.home), "--json")
    assert (refused.code, refused.json["error"]["code"]) == (1, "identity")


async def test_two_meshes_on_one_machine_do_not_mix(nodes: list[RunningNode]) -> None:
    ann, bob, cyd, dan = nodes
    for founder, member in ((ann, bob), (cyd, dan)):
        await founder.start()
        await join(founder, member)
        await member.start()
        await up(founder, member.name)
        await up(member, founder.name)
    meshes = [(await node.status())["mesh_id"] for node in nodes]
    assert meshes[0] == meshes[1] != meshes[2] == meshes[3]
    # A token of one mesh does nothing for a member of the other, whose mesh stays as it is.
    token = await token_of(ann)
    for node in (cyd, dan):
        refused = await hearth("join", token, "--home", str(node.home), "--json")
        assert (refused.code, refused.json["error"]["code"]) == (1, "already-member")
    # Nor does it help to know an address: Ann dials Dan as one of her own, and is refused.
    await ann.stop()
    at_ann, at_cyd = (json.loads((node.home / "peers.json").read_text()) for node in (ann, cyd))
    (ann.home / "peers.json").write_text(json.dumps({**at_ann, **at_cyd}))
    await ann.start()
    for node, other in ((ann, "bob"), (bob, "ann"), (cyd, "dan"), (dan, "cyd")):
        await up(node, other)
        assert [peer["name"] for peer in (await node.status())["peers"]] == [other]
