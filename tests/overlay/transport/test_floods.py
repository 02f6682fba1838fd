"""A member that sends far too much, over real sockets: slowed, cut, banned, and let in again."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack

import pytest

from overlay import complaints
from overlay.admission.handshake import LocalNode
from overlay.errors import LimitExceeded
from overlay.limits import BATCH_FRAMES_MAX
from overlay.transport import budgets, incoming, reading
from overlay.wire.codec import encode
from overlay.wire.messages import Batch, Cancel, Ping, Refusal, StreamAck
from tests.overlay.transport.nodes import PATIENCE_S, Node, eventually, keys, let_in, linked, mesh
from tests.overlay.transport.raw import RawPeer, admitted, raw_peer

FLOOD = encode(Ping(1))


@pytest.fixture(autouse=True)
def _small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a flood takes no time."""
    monkeypatch.setattr(incoming, "_CUT_AFTER_S", 0.1)
    monkeypatch.setattr(budgets, "PEER_MESSAGES_PER_S", 200)
    monkeypatch.setattr(budgets, "PEER_MESSAGES_BURST", 400)
    monkeypatch.setattr(budgets, "PARKED_MESSAGES_MAX", 400)
    monkeypatch.setattr(budgets, "SLOWED_MAX_S", 0.5)


async def flood_until_cut(raw: RawPeer) -> None:
    """Send for as long as the other side takes it."""

    async def flood() -> None:
        while True:
            for _ in range(50):
                await raw.send(FLOOD)
            await asyncio.sleep(0)

    flooding = asyncio.create_task(flood())
    try:
        await raw.cut()
    finally:
        flooding.cancel()
        await asyncio.wait({flooding})


async def keep_talking(honest: Node, node: Node, done: asyncio.Event) -> int:
    """One message after the other, each once the one before has arrived; how many did."""
    for number in itertools.count(1):
        assert honest.transport.send(node.peer_id, Cancel(b"%d" % number))
        await node.until(lambda n=number: Cancel(b"%d" % n) in node.messages())  # type: ignore[misc]
        if done.is_set():
            return number
    raise AssertionError


async def test_a_flooding_member_is_banned_and_an_honest_one_notices_nothing() -> None:
    async with mesh(3) as (node, honest, vandal):
        await linked(honest, node)
        done = asyncio.Event()
        async with raw_peer(node, vandal.key) as raw:
            await admitted(raw, node, vandal.me)
            talking = asyncio.create_task(keep_talking(honest, node, done))
            await flood_until_cut(raw)
        done.set()
        assert await talking > 1
        (ban,) = node.transport.bans().values()
        assert "messages" in ban.reason
        assert [peer for peer, _ in node.seen("down")] == [vandal.peer_id]
        assert "banned for 60 s: it sent more than" in str(node.seen("down")[0][1])
        # It is told so again when it comes back, and the others are as welcome as ever.
        async with raw_peer(node, vandal.key) as raw:
            await raw.send(FLOOD)
            answer = await raw.receive()
            assert isinstance(answer, Refusal)
            assert answer.code == LimitExceeded.code
            assert "banned for" in answer.message
            await raw.cut()
        assert honest.peer_id in node.transport.links()
        assert honest.seen("down") == []


async def test_a_peer_that_floods_who_dialled_it_is_not_dialled_until_the_ban_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budgets, "BAN_S", 2.0)
    async with mesh(2) as (node, vandal):
        await linked(node, vandal)
        while vandal.peer_id in node.transport.links():
            vandal.transport.send(node.peer_id, Cancel(b"more"))
            await asyncio.sleep(0)
        assert node.transport.bans().keys() == {vandal.peer_id}
        assert not node.transport.send(vandal.peer_id, Cancel(b"hello"))
        assert "banned" in str(await vandal.until_seen("down"))
        # By and by it is forgiven.
        await node.until_seen("up", 2)
        assert node.transport.bans() == {}
        assert vandal.peer_id in node.transport.links()


async def test_a_burst_is_slowed_and_loses_nothing() -> None:
    async with mesh(2) as (node, member):
        await linked(member, node)
        sent = [Cancel(b"%d" % number) for number in range(460)]
        for message in sent:
            assert member.transport.send(node.peer_id, message)
        await node.until(lambda: node.transport.slowed() == {member.peer_id})
        await node.until(lambda: len(node.messages()) == len(sent))
        assert node.messages() == sent
        await eventually(lambda: not node.transport.slowed())
        assert node.transport.bans() == {}
        assert node.seen("down") == []


async def test_a_crowd_that_one_let_in_is_slowed_as_one_and_others_notice_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """None of its members sends more than it may."""
    fresh = keys()
    async with mesh(3) as (node, inviter, honest), AsyncExitStack() as stack:
        await linked(honest, node)
        crowd = []
        for key in itertools.islice(fresh, 4):
            raw = await stack.enter_async_context(raw_peer(node, key))
            await admitted(raw, node, LocalNode(key, let_in(key, inviter.me), "invented", ()))
            crowd.append((key.peer_id, raw))
        each = [Cancel(b"%d" % number) for number in range(250)]
        for message in each:
            for _, raw in crowd:
                await raw.send(encode(message))
        await node.until(lambda: bool(node.transport.slowed()))
        assert honest.transport.send(node.peer_id, Cancel(b"honest"))
        await node.until(lambda: Cancel(b"honest") in node.messages())
        assert node.transport.slowed() <= {peer for peer, _ in crowd}
        assert node.transport.slowed(), "they were still slowed when the honest one was heard"
        await node.until(lambda: len(node.messages()) == 4 * len(each) + 1)
        received = node.seen("received")
        assert all([m for p, m in received if p == peer] == each for peer, _ in crowd)
        await eventually(lambda: not node.transport.slowed())
        assert node.transport.bans() == {}
    [told] = [record.message for record in caplog.records if "together" in record.message]
    assert told.startswith(f"{inviter.peer_id} and whom it let in send too much together")


async def test_a_crowd_that_loses_its_links_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(complaints, "_NAMED_MAX", 2)
    fresh = keys()
    async with mesh(2) as (node, inviter):
        for count, key in enumerate(itertools.islice(fresh, 4), 1):
            async with raw_peer(node, key) as raw:
                await admitted(raw, node, LocalNode(key, let_in(key, inviter.me), "invented", ()))
                await raw.send(b"no message")
                await node.until_seen("down", count)
    told = [line.split(": ")[0] for line in caplog.messages if "loses" in line]
    assert told[2:] == [
        f"each of {number} or more others whom {inviter.peer_id} let in loses its link"
        for number in (1, 2)
    ]


async def test_of_all_that_waits_whoever_has_most_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ALL_PARKED_BYTES_MAX", 24_000)
    async with mesh(3) as (node, member, vandal):
        await linked(member, node)
        await linked(vandal, node)
        sent = [Cancel(b"%d" % number) for number in range(460)]
        for message in sent:
            assert member.transport.send(node.peer_id, message)
        for number in range(790):
            assert vandal.transport.send(node.peer_id, Cancel(b"%d" % number))
        await node.until(lambda: node.transport.bans().keys() == {vandal.peer_id})
        assert "wait to be read" in node.transport.bans()[vandal.peer_id].reason
        await node.until(
            lambda: len([p for p, _ in node.seen("received") if p == member.peer_id]) == 460
        )
        assert node.seen("down")[0][0] == vandal.peer_id


@pytest.mark.parametrize(
    ("module", "limit"),
    [(incoming, "STRANGERS_PER_ADDRESS_MAX"), (budgets, "HANDSHAKES_BURST")],
    ids=["at-one-time", "per-second"],
)
async def test_one_address_gets_so_many_connections(
    monkeypatch: pytest.MonkeyPatch, module: object, limit: str
) -> None:
    monkeypatch.setattr(module, limit, 0 if limit == "HANDSHAKES_BURST" else 1)
    monkeypatch.setattr(budgets, "HANDSHAKES_PER_S", 1e-9)
    fresh = keys()
    async with mesh(1) as (node,), raw_peer(node, next(fresh)) as first:
        await first.send(encode(Cancel(b"")))
        assert isinstance(await first.receive(), Refusal)
        async with raw_peer(node, next(fresh)) as second:
            await second.send(encode(Cancel(b"")))
            await second.cut()
        await eventually(lambda: node.events == [])


async def test_batches_are_told_in_parts_and_slowed_by_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Twice what is granted at once: too much also for a node that pauses for a second.
    monkeypatch.setattr(budgets, "SLOWED_MAX_S", PATIENCE_S)
    async with mesh(2) as (node, member):
        await linked(member, node)
        parts = [StreamAck(b"request", number) for number in range(100 * BATCH_FRAMES_MAX)]
        for at in range(0, len(parts), BATCH_FRAMES_MAX):
            batch = Batch((), tuple(parts[at : at + BATCH_FRAMES_MAX]))
            assert member.transport.send(node.peer_id, batch)
        await node.until(lambda: node.transport.slowed() == {member.peer_id})
        await node.until(lambda: len(node.messages()) == len(parts))
        assert node.messages() == parts


async def test_a_batch_of_too_many_ends_the_link() -> None:
    async with mesh(2) as (node, vandal):
        await linked(node, vandal)
        acks = tuple(StreamAck(b"request", number) for number in range(BATCH_FRAMES_MAX + 1))
        vandal.transport.send(node.peer_id, Batch((), acks))
        assert "a batch has at most" in str(await vandal.until_seen("down"))
        assert node.messages() == []
