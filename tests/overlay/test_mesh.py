"""Meshes of one process: real links and real discovery on the loopback interface."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from unittest.mock import Mock

import msgpack
import pytest

from models.engine import ModelInfo, Sampling
from overlay.admission.handshake import LocalNode
from overlay.effects import Effect
from overlay.errors import ConfigError, LimitExceeded
from overlay.forwarding.effects import Failure, Weighed
from overlay.gossip.records import BLOCK_VALUE, CARD, Card, ModelCard, block_key
from overlay.http.backend import Ask
from overlay.identity.certificates import Membership, found_mesh, issue
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocation, Revocations, revoke
from overlay.limits import (
    MEMBERS_MAX,
    MESSAGE_BYTES_MAX,
    PEER_MESSAGES_BURST,
    REVOCATIONS_PER_BRANCH_BURST,
    UNREADABLE_MESSAGES,
)
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.transport.lan import LanDiscovery
from overlay.wire.anti_entropy import Change, GossipAck, OriginDelta, RevocationNotice
from overlay.wire.codec import encode
from overlay.wire.messages import PROTOCOL_VERSION, Forward, Hello
from tests.overlay.transport.nodes import ANY_PORT, PATIENCE_S, eventually, keys
from tests.support.bare_mesh import bare_mesh


class Member:
    """A mesh with no engines, and what it says of its peers."""

    def __init__(self, node: LocalNode, *, lan: bool) -> None:
        self.heard_of_peers = asyncio.Event()
        self.node = node
        self.revocation_writes = 0
        self.mesh = bare_mesh(
            node, on_revoked=self._revoked, on_peers=self.heard_of_peers.set, lan=lan
        )

    def _revoked(self) -> None:
        self.revocation_writes += 1


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
    assert one.mesh.known_peers().keys() == {two.mesh.me}
    assert two.mesh.known_peers().keys() == {one.mesh.me}
    assert apart.mesh.known_peers() == {}


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


def test_of_those_that_announce_themselves_so_many_are_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled: dict[PeerId, tuple[Multiaddr, ...]] = {}
    mesh = Member(members(1)[0], lan=False).mesh
    monkeypatch.setattr(mesh.transport, "dial", dialled.__setitem__)
    monkeypatch.setattr(mesh.transport, "hang_up", lambda peer, reason: dialled.pop(peer))
    for number in range(2 * MEMBERS_MAX):
        mesh._found_on_lan(
            PeerId(number.to_bytes(32, "big")), [Multiaddr("ip4", "192.0.2.7", 7710)]
        )
    assert len(dialled) == MEMBERS_MAX


def test_whoever_has_a_link_may_be_asked_as_soon_as_its_round_trip_is_known() -> None:
    """Not only after the next round of gossip."""
    me, other = members(2)
    mesh = Member(me, lan=False).mesh
    peer = other.key.peer_id
    card = Card("bea", (), (ModelCard("toy", bytes(16)),))
    hello = Hello((PROTOCOL_VERSION,), peer, b"", "bea", (), (), b"")
    mesh.link_up(peer, hello, (peer,))
    record, block = Change(CARD, 1, card.pack()), Change(block_key(7), 2, BLOCK_VALUE)
    mesh.received(peer, GossipAck((OriginDelta(peer, 1, 0, True, (record,), 1, 0),)), 100)
    known = mesh.member.neighbourhood
    assert known.card_of(peer, "toy") is None
    assert known.client_of(peer) == (peer, peer)
    mesh.link_measured(peer, 7.0)
    assert known.card_of(peer, "toy") == card.models[0]
    assert known.neighbours[peer].rtt_ms == 7.0
    mesh.received(peer, GossipAck((OriginDelta(peer, 1, 1, False, (block,), 2, 0),)), 100)
    [candidate] = known.candidates("toy", [7], mesh.now(), exclude=())
    assert candidate.match_tokens == BLOCK_TOKENS
    assert candidate.summary_weight == 1, "it has just been heard of"


async def test_a_prompt_that_is_too_long_for_a_message_fails_its_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing else: most are sent on from where nobody could hear of an exception."""
    me, other = members(2)
    told: list[object] = []
    mesh = bare_mesh(me, on_client_event=lambda _, event: told.append(event))
    monkeypatch.setattr(mesh._outbox, "_send", lambda _, message: bool(encode(message)))
    peer = other.key.peer_id
    mesh.link_up(peer, Hello((PROTOCOL_VERSION,), peer, b"", "bea", (), (), b""), (peer,))
    record = Change(CARD, 1, Card("bea", (), (ModelCard("toy", bytes(16)),)).pack())
    mesh.received(peer, GossipAck((OriginDelta(peer, 1, 0, True, (record,), 1, 0),)), 100)
    mesh.link_measured(peer, 7.0)
    mesh.submit(b"r" * 16, Ask("toy", "x" * MESSAGE_BYTES_MAX, Sampling()), "toy")
    [failure] = told
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, LimitExceeded)
    assert mesh.member.forwarder.open_requests == 0


async def test_what_it_takes_to_decide_for_a_guest_counts_among_what_the_guest_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    me, other = members(2)
    mesh, charged = bare_mesh(me), Mock()
    monkeypatch.setattr(mesh.transport, "charge", charged)
    mesh._carry_out([Weighed(other.key.peer_id, 5)])
    charged.assert_called_once_with(other.key.peer_id, 5)


async def test_a_bug_in_one_round_does_not_end_all_others(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("overlay.mesh.GOSSIP_INTERVAL_S", 0)
    member = Member(members(1)[0], lan=False)
    ticks: asyncio.Queue[float] = asyncio.Queue()

    def fail(now: float, linked: object) -> list[Effect]:
        ticks.put_nowait(now)
        raise ArithmeticError

    monkeypatch.setattr(member.mesh.member, "tick", fail)
    await member.mesh.start([ANY_PORT])
    stack.push_async_callback(member.mesh.close)
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(2):
            await ticks.get()
    assert "ArithmeticError" in caplog.text


@pytest.mark.parametrize("turns", range(4))
async def test_nothing_goes_on_in_a_mesh_that_is_closed(turns: int) -> None:
    """Also if something becomes due just then."""
    mesh = Member(members(1)[0], lan=False).mesh
    await mesh.start([ANY_PORT])
    await asyncio.sleep(0)
    mesh._wake.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    await mesh.close()
    assert mesh._driver is not None
    assert mesh._driver.done()


# --- Revocations ------------------------------------------------------------------------------


async def test_who_leaves_a_mesh_computes_for_no_guest_of_it_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engines stay, and would go on for as long as the answer is."""
    me, other = members(2)
    member = Member(me, lan=False)
    mesh, engine, guest = member.mesh, Mock(), other.key.peer_id
    monkeypatch.setattr(mesh._engines, "get", lambda _: engine)
    monkeypatch.setattr(mesh._outbox, "_send", lambda *_: True)
    info = ModelInfo("toy", bytes(16), (), "a toy", 4096, 8192, 1)
    mesh.member.models_changed([info], {}, mesh.now())
    asked = Forward(
        *(b"r" * 16, "toy", bytes(16), (1, 2, 3), None, (), 0, Sampling()),
        *((guest,), 0, 60_000, 0),
    )
    mesh.received(guest, asked, 100)
    engine.submit.assert_called_once()
    engine.cancel.assert_not_called()
    await mesh.close()
    engine.cancel.assert_called_once_with(b"r" * 16)


async def linked(*members: Member) -> None:
    """Everybody meets the first; waits until all have links and records of all."""
    for member in members[1:]:
        member.mesh.meet(members[0].mesh.me, members[0].mesh.addresses)
    everybody = {member.mesh.me for member in members}
    for member in members:
        others = everybody - {member.mesh.me}
        await eventually(lambda: member.mesh.transport.links().keys() == others)  # noqa: B023
        await eventually(lambda: member.mesh.contacts().keys() == others)  # noqa: B023


def revoke_by(one: Member, other: PeerId) -> bytes:
    chain = one.mesh.member.roll.chain(other)
    key, membership = one.node.key, one.mesh.membership
    _, record = revoke(key, membership, one.mesh.revocations, other, time.time(), chain=chain)
    one.mesh.revoke(record)
    return record


async def test_a_revoked_member_is_cut_off_by_all_and_stands_down(stack: AsyncExitStack) -> None:
    nodes = [await start(stack, node, lan=False) for node in members(4)]
    *staying, out = nodes
    await linked(*nodes)
    record = revoke_by(staying[0], out.mesh.me)
    await eventually(lambda: out.mesh.revoked is not None)
    for member in staying:
        await eventually(lambda: out.mesh.me not in member.mesh.transport.links())  # noqa: B023
        assert member.mesh.revocations.records() == [record]
        assert member.revocation_writes == 1
        assert out.mesh.me not in member.mesh.known_peers()
        assert out.mesh.me not in member.mesh.contacts()
        assert out.mesh.me in member.mesh.acquaintances.excluded
        assert len(member.mesh.transport.links()) == 2
    await eventually(lambda: out.mesh.transport.links() == {})
    assert "revoked; a new invite" in out.mesh.member.neighbourhood.why_few()
    assert staying[0].mesh.member.neighbourhood.why_few() == ""
    # It does not try any more, and nobody tries it.
    out.mesh.meet(staying[0].mesh.me, staying[0].mesh.addresses)
    assert all(member.mesh.transport.failures() == {} for member in nodes)


async def test_a_full_disk_does_not_keep_those_who_are_revoked(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, out = [await start(stack, node, lan=False) for node in members(3)]
    await linked(one, two, out)
    await out.mesh.close()
    await eventually(lambda: out.mesh.me not in one.mesh.transport.links())
    monkeypatch.setattr(one.mesh, "_on_revoked", Mock(side_effect=ConfigError("the disk is full")))
    with pytest.raises(ConfigError):
        revoke_by(one, out.mesh.me)
    assert out.mesh.me not in one.mesh.known_peers()
    assert out.mesh.me in one.mesh.acquaintances.excluded


async def test_a_clock_that_goes_wrong_keeps_links_and_one_that_is_set_right_brings_them(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    founder, early, late = members(3)
    one, two = await start(stack, founder, lan=False), await start(stack, early, lan=False)
    await linked(one, two)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() - 7200.0)
    three = await start(stack, late, lan=False)
    three.mesh.meet(one.mesh.me, one.mesh.addresses)
    await eventually(lambda: "check both clocks" in str(three.mesh.transport.failures()))
    assert one.mesh.transport.links().keys() == {two.mesh.me}
    monkeypatch.setattr(time, "time", right)
    await linked(one, two, three)


async def test_who_was_away_hears_of_a_revocation_by_gossip(stack: AsyncExitStack) -> None:
    founder, second, late, out = members(4)
    one = await start(stack, founder, lan=False)
    two = await start(stack, second, lan=False)
    await linked(one, two)
    four = await start(stack, out, lan=False)
    record = revoke_by(one, four.mesh.me)
    await one.mesh.close()
    # The founder is gone, and whom it revoked is first to meet the one that was away.
    three = await start(stack, late, lan=False)
    await linked(three, four)
    two.mesh.meet(three.mesh.me, three.mesh.addresses)
    await eventually(lambda: three.mesh.revocations.records() == [record])
    await eventually(lambda: four.mesh.me not in three.mesh.transport.links())
    await eventually(lambda: four.mesh.revoked is not None)
    assert four.mesh.me not in three.mesh.known_peers()


async def test_a_revoked_node_that_was_away_is_told_when_it_comes(stack: AsyncExitStack) -> None:
    founder, out = members(2)
    one = await start(stack, founder, lan=False)
    record = revoke_by(one, out.key.peer_id)
    two = await start(stack, out, lan=False)
    two.mesh.meet(one.mesh.me, one.mesh.addresses)
    await eventually(lambda: two.mesh.revoked is not None)
    assert two.mesh.revocations.records() == [record]


async def test_of_a_member_that_revokes_without_end_few_are_written_whoever_shows_them(
    stack: AsyncExitStack,
) -> None:
    _, rogue, node = members(3)
    assert rogue.membership is not None
    one = await start(stack, node, lan=False)
    chain, now = list(rogue.membership.certificates), int(time.time())
    for number in range(3 * REVOCATIONS_PER_BRANCH_BURST):
        made_up = PeerId(secrets.token_bytes(32))
        revocation = Revocation(
            one.mesh.membership.mesh_id, made_up, rogue.key.peer_id, now + number
        )
        record = msgpack.packb([revocation.sign(rogue.key), chain])
        one.mesh.revocation_shown("a stranger", record)
    assert 0 < one.revocation_writes <= REVOCATIONS_PER_BRANCH_BURST + 1


async def test_a_lie_about_a_revocation_has_no_effect(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = [await start(stack, node, lan=False) for node in members(2)]
    await linked(one, two)
    # The one that two's peer would show, were it to lie: of another mesh, and by nobody.
    foreign = members(2)
    assert foreign[0].membership is not None
    signed = [
        revoke(
            foreign[0].key,
            foreign[0].membership,
            Revocations(foreign[0].key.peer_id),
            two.mesh.me,
            at,
        )
        for at in (0.0, time.time())
    ]
    (_, shown), (_, told) = signed
    two.mesh.revocation_shown("one", shown)
    two.mesh.revocation_shown("one", b"junk")
    assert two.mesh.revoked is None
    # Anybody who can connect can do that again and again.
    assert caplog.text.count("one refuses to link, for a revocation that is none") == 1
    # Who tells it on a link breaks the protocol.
    ended = asyncio.Event()
    monkeypatch.setattr(two.mesh, "link_down", lambda peer, reason: ended.set())
    one.mesh.transport.send(two.mesh.me, RevocationNotice(told))
    async with asyncio.timeout(PATIENCE_S):
        await ended.wait()
    assert two.mesh.revocations.records() == []


async def test_who_makes_up_members_that_cannot_be_read_is_slowed(stack: AsyncExitStack) -> None:
    one, two = [await start(stack, node, lan=False) for node in members(2)]
    await linked(one, two)
    count = 2 * PEER_MESSAGES_BURST // UNREADABLE_MESSAGES
    for _ in range(count):
        card = Change(CARD, 1, b"\xc1")
        made_up = OriginDelta(PeerId(secrets.token_bytes(32)), 1, 0, False, (card,), 1, 0)
        assert one.mesh.transport.send(two.mesh.me, GossipAck((made_up,)))
    await eventually(lambda: two.mesh.transport.slowed() == {one.mesh.me})
    assert not one.mesh.transport.slowed()
