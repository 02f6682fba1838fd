"""Meshes of one process: real links and real discovery on the loopback interface."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest

from overlay.admission.handshake import LocalNode
from overlay.engines import EnginePool
from overlay.forwarding.terms import NO_BOUNDS
from overlay.identity.certificates import Membership, found_mesh, issue
from overlay.identity.invites import InviteLedger
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX
from overlay.mesh import Mesh
from overlay.transport.lan import LanDiscovery
from tests.overlay.transport.nodes import ANY_PORT, PATIENCE_S, keys


class Member:
    """A mesh with no engines, and what it says of its peers."""

    def __init__(self, node: LocalNode, *, lan: bool) -> None:
        self.heard_of_peers = asyncio.Event()
        assert node.membership is not None
        self.mesh = Mesh(
            node=node,
            ledger=InviteLedger(node.key.peer_id),
            incarnation=1,
            engines=EnginePool(
                hash_key=node.membership.mesh_secret,
                on_event=lambda model, event: None,
                on_models=lambda: None,
            ),
            on_client_event=lambda request_id, event: None,
            on_ledger=lambda: None,
            on_peers=self.heard_of_peers.set,
            terms=NO_BOUNDS,
            lan=lan,
            rng=random.Random(1),
        )


@pytest.fixture
async def stack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncExitStack]:
    on_loopback = partial(LanDiscovery, interfaces=["127.0.0.1"])
    monkeypatch.setattr("overlay.mesh.LanDiscovery", on_loopback)
    async with AsyncExitStack() as stack:
        yield stack


async def start(stack: AsyncExitStack, node: LocalNode, *, lan: bool) -> Member:
    member = Member(node, lan=lan)
    await member.mesh.start([ANY_PORT])
    stack.push_async_callback(member.mesh.close)
    return member


def members(count: int) -> list[LocalNode]:
    fresh = keys()
    founder = next(fresh)
    founded = found_mesh(founder, secrets.token_bytes(32))
    nodes = [LocalNode(founder, founded, "founder", ())]
    for index in range(1, count):
        key = next(fresh)
        chain = issue(founder, founded, key.peer_id, time.time())
        membership = Membership(founded.founder, founded.mesh_secret, chain)
        nodes.append(LocalNode(key, membership, f"member {index}", ()))
    return nodes


@pytest.mark.usefixtures("multicast_on_loopback")
async def test_members_on_one_lan_link_without_knowing_addresses(stack: AsyncExitStack) -> None:
    founder, member, hermit = members(3)
    apart = await start(stack, hermit, lan=False)
    one = await start(stack, founder, lan=True)
    two = await start(stack, member, lan=True)
    async with asyncio.timeout(PATIENCE_S):
        await one.heard_of_peers.wait()
        await two.heard_of_peers.wait()
    assert one.mesh.known_peers() == [two.mesh.me]
    assert two.mesh.known_peers() == [one.mesh.me]
    assert apart.mesh.known_peers() == []


def test_an_old_announcement_does_not_displace_known_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever repeats what a peer announced in another network must not keep us from it."""
    dialled: dict[PeerId, tuple[Multiaddr, ...]] = {}
    me, other = members(2)
    mesh = Member(me, lan=False).mesh
    monkeypatch.setattr(mesh.transport, "dial", dialled.__setitem__)
    old, new = Multiaddr("ip4", "192.0.2.7", 7710), Multiaddr("dns", "home.example", 7710)
    mesh.meet(other.key.peer_id, [new])
    mesh._found_on_lan(other.key.peer_id, [old])
    mesh._found_on_lan(other.key.peer_id, [old, new])
    assert dialled == {other.key.peer_id: (old, new)}


def test_announcements_of_too_many_peers_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: dict[PeerId, tuple[Multiaddr, ...]] = {}
    mesh = Member(members(1)[0], lan=False).mesh
    monkeypatch.setattr(mesh.transport, "dial", dialled.__setitem__)
    for number in range(2 * MEMBERS_MAX):
        mesh._found_on_lan(
            PeerId(number.to_bytes(32, "big")), [Multiaddr("ip4", "192.0.2.7", 7710)]
        )
    assert len(dialled) == MEMBERS_MAX
