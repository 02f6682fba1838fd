"""The transport's contract, on real sockets."""

from __future__ import annotations

import asyncio
import errno
import time
from contextlib import AsyncExitStack
from unittest.mock import Mock

import pytest
import zmq

from overlay.errors import AddressInUse, ConfigError, LimitExceeded, LocalProtocolError
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import revoke
from overlay.limits import MESSAGE_BYTES_MAX
from overlay.transport import dialling, link, sockets
from overlay.transport.link import Direction, LinkStatus
from overlay.wire.anti_entropy import Syn
from overlay.wire.codec import encode
from overlay.wire.messages import Cancel, Goodbye, Hello, Message, Refusal, StreamAck, TokenFrame
from tests.overlay.transport.nodes import ANY_PORT, PATIENCE_S, Node, eventually, linked, mesh
from tests.overlay.transport.raw import admitted, hello_of, raw_peer


async def test_a_link_comes_up_once_on_both_sides() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        [(peer, hello)] = one.seen("up")
        assert peer == other.peer_id
        assert isinstance(hello, Hello)
        assert hello.name == "member 1"
        [(peer, hello)] = other.seen("up")
        assert peer == one.peer_id
        assert one.transport.links()[other.peer_id].direction is Direction.OUTGOING
        assert other.transport.links()[one.peer_id].direction is Direction.INCOMING
        assert one.transport.links()[other.peer_id].endpoint == other.addresses[0].endpoint


async def test_what_came_before_its_connection_was_cut_is_no_strangers(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a pause of this process, in which the peer went on."""
    async with mesh(2) as (node, member):
        await linked(member, node)
        listener = node.transport._listener
        assert listener is not None
        read = asyncio.Event()
        arrived = listener._pump._arrived

        def told(frames: list[zmq.Frame]) -> None:
            arrived(frames)
            read.set()

        [(name, route)] = listener._routes.items()
        assert member.transport.send(node.peer_id, Cancel(b"late"))
        assert listener._router.poll(round(PATIENCE_S * 1000))
        route.line.close("it was silent")
        listener._cut(name, route)
        monkeypatch.setattr(listener._pump, "_arrived", told)
        async with asyncio.timeout(PATIENCE_S):
            await read.wait()
        assert [each for each in caplog.messages if "let in" in each] == []
        assert node.messages() == []


async def test_each_round_trip_is_told_as_soon_as_it_is_known() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        for node, peer in ((one, other), (other, one)):
            await node.until(lambda: bool(node.measured))  # noqa: B023
            [(measured, rtt_ms)] = node.measured
            assert measured == peer.peer_id
            assert node.transport.links()[peer.peer_id].rtt_ms == rtt_ms


async def test_there_are_links_with_so_many_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may invite can make up any number, and each link takes a file descriptor."""
    monkeypatch.setattr("overlay.transport.links.MEMBERS_MAX", 1)
    monkeypatch.setattr(dialling, "REDIAL_MAX_S", 0.2)
    async with mesh(3) as (hub, first, second):
        await linked(first, hub)
        second.dial(hub)
        await second.until_seen("down")
        assert "there are 1 places for the mesh" in str(second.seen("down")[0][1])
        assert hub.transport.links().keys() == {first.peer_id}
        first.transport.hang_up(hub.peer_id, "it makes room")
        await hub.until(lambda: hub.transport.links().keys() == {second.peer_id})


async def test_who_dials_again_and_again_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever makes members up gets the place of each as often as it dials anew."""
    monkeypatch.setattr("overlay.transport.links.MEMBERS_MAX", 1)
    async with mesh(3) as (hub, first, second), raw_peer(hub, first.key) as old:
        await admitted(old, hub, first.me)
        async with raw_peer(hub, first.key) as new:
            await new.send(encode(hello_of(first.me)))
            await hub.until_seen("up", 2)
            second.dial(hub)
            await second.until_seen("down")
            assert "there are 1 places for the mesh" in str(second.seen("down")[0][1])
            assert hub.transport.links().keys() == {first.peer_id}


async def test_a_node_that_may_open_no_more_sockets_dials_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One listens and two watch it, one authenticates, and a dialled connection takes three.
    monkeypatch.setattr(sockets, "_SOCKETS_MAX", 7)
    monkeypatch.setattr(dialling, "REDIAL_MAX_S", 0.2)
    async with mesh(3) as (hub, first, second):
        await linked(hub, first)
        hub.dial(second)
        await eventually(lambda: second.peer_id in hub.transport.failures())
        assert "no socket can be opened here" in hub.transport.failures()[second.peer_id]
        hub.transport.hang_up(first.peer_id, "it makes room")
        await hub.until(lambda: hub.transport.links().keys() == {second.peer_id})


@pytest.mark.parametrize("crossing_s", [60.0, -1.0])
async def test_a_peer_that_dials_has_lost_the_link_that_we_have(
    monkeypatch: pytest.MonkeyPatch, crossing_s: float
) -> None:
    """What is sent on the old one would be lost, and nobody would be told of it."""
    monkeypatch.setattr(link, "CROSSING_S", crossing_s)
    async with mesh(2) as (one, other):
        await linked(one, other)
        async with raw_peer(one, other.key) as again:
            await admitted(again, one, other.me)
            await again.send(encode(StreamAck(b"r", 1)))
            await one.until(lambda: len(one.messages()) == 1)
            down = [(peer, str(why)) for peer, why in one.seen("down")]
            if crossing_s > 0:
                assert down == []
                assert len(one.seen("up")) == 1
            else:
                assert down == [(other.peer_id, "replaced by a new connection")]
                assert len(one.seen("up")) == 2
                assert one.transport.links()[other.peer_id].direction is Direction.INCOMING


async def test_a_peer_has_left_when_it_says_so_on_the_link_in_use() -> None:
    """Somebody may have copied its home, started that by mistake, and stopped it again."""
    async with mesh(2) as (one, other):
        await linked(one, other)
        async with raw_peer(one, other.key) as copy:
            await admitted(copy, one, other.me)
            await copy.send(encode(Goodbye("stopped")))
            # After a ping, and a question about its address perhaps.
            while await copy.receive() != Goodbye("goodbye"):
                pass
        other.transport.send(one.peer_id, StreamAck(b"r", 1))
        await one.until(lambda: one.messages() == [StreamAck(b"r", 1)])
        assert one.seen("down") == []
        await other.transport.close("it stops, too")
        await one.until_seen("down")
        assert one.messages() == [StreamAck(b"r", 1), Goodbye("it stops, too")]


@pytest.mark.parametrize("in_use", [True, False])
async def test_with_the_link_in_use_the_other_one_ends(
    monkeypatch: pytest.MonkeyPatch, in_use: bool
) -> None:
    """What was under way on it may be lost, and somebody must be told."""
    monkeypatch.setattr(link, "CROSSING_S", 60.0)
    async with mesh(2) as (one, other):
        await linked(one, other)
        async with raw_peer(one, other.key) as crossing:
            await crossing.send(encode(hello_of(other.me)))
            assert isinstance(await crossing.receive(), Hello)
            lines = one.transport._links._up[other.peer_id]
            assert [line.link.direction for line in lines] == ["outgoing", "incoming"]
            lines[0 if in_use else 1].close("the connection broke")
            await crossing.cut()
            assert [why for _, why in one.seen("down")] == ["the connection broke"] * in_use
            await one.until(lambda: other.peer_id in one.transport.links())
            assert len(one.seen("up")) == 1 + in_use


async def test_a_peer_with_two_links_that_stops_has_left() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        async with raw_peer(one, other.key) as second:
            await admitted(second, one, other.me)
            await other.transport.close("it stops")
            await one.until_seen("down")
            assert one.messages() == [Goodbye("it stops")]


async def test_a_revoked_peer_with_two_links_is_told_on_each_and_named_once() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        async with raw_peer(one, other.key) as second:
            await admitted(second, one, other.me)
            assert one.me.membership is not None
            _, record = revoke(
                *(one.key, one.me.membership, one.revocations, other.peer_id, time.time())
            )
            one.revocations.add(record)
            assert one.transport.refuse_revoked() == [other.peer_id]
            await other.until(lambda: other.shown == [record])
            while not isinstance(told := await second.receive(), Refusal):
                pass
            assert told.evidence == record


async def test_messages_arrive_in_order_and_both_ways() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        there = [TokenFrame(b"r", seq, (seq,), "text") for seq in range(500)]
        back = [StreamAck(b"r", seq) for seq in range(500)]
        for frame, ack in zip(there, back, strict=True):
            assert one.transport.send(other.peer_id, frame)
            assert other.transport.send(one.peer_id, ack)
        await other.until(lambda: len(other.messages()) == 500)
        await one.until(lambda: len(one.messages()) == 500)
        assert other.messages() == there
        assert one.messages() == back


async def test_the_longest_message_arrives() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        longest = TokenFrame(b"r", 0, (), "x" * (MESSAGE_BYTES_MAX - 20))
        assert one.transport.send(other.peer_id, longest)
        assert await other.until_seen("received") == longest
        with pytest.raises(LimitExceeded):
            one.transport.send(other.peer_id, longest._replace(text="x" * MESSAGE_BYTES_MAX))


async def test_three_nodes_and_who_sent_what() -> None:
    async with mesh(3) as (hub, left, right):
        await linked(left, hub)
        await linked(right, hub)
        assert left.transport.send(hub.peer_id, Cancel(b"left"))
        assert right.transport.send(hub.peer_id, Cancel(b"right"))
        await hub.until(lambda: len(hub.messages()) == 2)
        assert sorted(hub.seen("received")) == sorted(
            [(left.peer_id, Cancel(b"left")), (right.peer_id, Cancel(b"right"))]
        )
        assert not left.transport.send(right.peer_id, Cancel(b"no link"))


async def measured(node: Node, peer: PeerId) -> LinkStatus:
    await eventually(lambda: node.transport.links()[peer].rtt_ms is not None)
    return node.transport.links()[peer]


async def test_round_trips_are_measured_at_once_and_traffic_is_counted() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        for node, peer in ((one, other.peer_id), (other, one.peer_id)):
            status = await measured(node, peer)
            # Hello and ping at the least.
            assert status.sent_bytes > status.sent_messages >= 2


async def test_both_dial_and_hear_of_one_link_only() -> None:
    async with mesh(2) as (one, other):
        one.dial(other)
        other.dial(one)
        await one.until_seen("up")
        await other.until_seen("up")
        for seq in range(50):
            assert one.transport.send(other.peer_id, StreamAck(b"r", seq))
        await other.until(lambda: len(other.messages()) == 50)
        assert other.messages() == [StreamAck(b"r", seq) for seq in range(50)]
        assert len(one.seen("up")) == len(other.seen("up")) == 1
        await one.transport.close()
        await other.until_seen("down")
        # However many links there were: up and down take turns.
        kinds = [kind for kind, _, _ in other.events if kind != "received"]
        assert kinds[::2] == ["up"] * len(kinds[::2])
        assert kinds[1::2] == ["down"] * len(kinds[1::2])


async def test_no_dialling_while_the_peer_has_dialled_but_afterwards() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        other.dial(one)
        assert other.transport.send(one.peer_id, Cancel(b"over the link that is there"))
        await one.until_seen("received")
        one.transport.hang_up(other.peer_id, "now you")
        await other.until_seen("up", 2)
        assert other.transport.links()[one.peer_id].direction is Direction.OUTGOING


async def test_goodbye_says_why() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        one.transport.hang_up(other.peer_id, "we are done")
        assert one.seen("down") == [(other.peer_id, "we are done")]
        assert await other.until_seen("down") == "said goodbye: we are done"
        assert not one.transport.send(other.peer_id, Cancel(b""))
        assert one.transport.links() == {}
        assert other.transport.links() == {}


async def test_closing_says_goodbye_and_tells_the_own_node_nothing() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        await one.transport.close()
        assert await other.until_seen("down") == "said goodbye: the node stops"
        assert one.seen("down") == []
        await one.transport.close()


async def test_a_node_that_closed_can_listen_on_its_port_again_at_once() -> None:
    async with mesh(2) as (one, other), AsyncExitStack() as stack:
        await linked(other, one)
        await one.transport.close()
        await other.until_seen("down")
        again = Node(one.key, one.me.membership, "again")
        await again.start(one.addresses[0])
        stack.push_async_callback(again.transport.close)
        assert again.addresses == one.addresses
        await again.until_seen("up")
        hello = await other.until_seen("up", 2)
        assert isinstance(hello, Hello)
        assert hello.name == "again"
        assert isinstance(await other.until_seen("received"), Goodbye)
        assert again.transport.send(other.peer_id, Cancel(b"new"))
        assert await other.until_seen("received", 2) == Cancel(b"new")


async def test_addresses_are_tried_in_turn() -> None:
    async with mesh(2) as (one, other):
        dead = Multiaddr("ip4", "127.0.0.1", 1)
        one.transport.dial(other.peer_id, [dead, Multiaddr("dns", "localhost", dead.port)])
        await eventually(lambda: other.peer_id in one.transport.failures())
        assert "/tcp/1: " in one.transport.failures()[other.peer_id]
        one.transport.dial(other.peer_id, [dead, *other.addresses])
        await one.until_seen("up")
        assert one.transport.failures() == {}


async def test_a_host_name_is_dialled() -> None:
    async with mesh(2) as (one, other):
        address = Multiaddr("dns4", "localhost", other.addresses[0].port)
        one.transport.dial(other.peer_id, [address])
        await one.until_seen("up")


async def test_another_nodes_address_gives_no_link() -> None:
    async with mesh(3) as (one, other, third):
        one.transport.dial(other.peer_id, third.addresses)
        await eventually(lambda: other.peer_id in one.transport.failures())
        assert "another node" in one.transport.failures()[other.peer_id]
        assert third.events == []
        one.transport.dial(other.peer_id, other.addresses)
        await one.until_seen("up")


async def test_nodes_of_different_meshes_refuse_each_other() -> None:
    async with mesh(1) as (one,), mesh(1) as (foreigner,):
        one.dial(foreigner)
        await eventually(lambda: foreigner.peer_id in one.transport.failures())
        assert "different meshes" in one.transport.failures()[foreigner.peer_id]
        assert one.events == []
        assert foreigner.events == []


async def test_our_own_bug_ends_one_link_not_all() -> None:
    async with mesh(3) as (hub, left, right):
        await linked(left, hub)
        await linked(right, hub)
        note = hub.received

        def received(peer: PeerId, message: Message, size: int) -> None:
            if message == Cancel(b"poison"):
                raise ZeroDivisionError
            note(peer, message, size)

        hub.received = received  # type: ignore[method-assign]
        assert left.transport.send(hub.peer_id, Cancel(b"poison"))
        await hub.until_seen("down")
        assert right.transport.send(hub.peer_id, Syn(()))
        assert await hub.until_seen("received") == Syn(())
        # And the one that was cut comes back.
        await hub.until_seen("up", 3)


async def test_an_observer_that_fails_at_the_end_of_a_link_does_no_harm() -> None:
    async with mesh(3) as (hub, left, right):
        await linked(left, hub)
        note = hub.link_down

        def link_down(peer: PeerId, reason: str) -> None:
            note(peer, reason)
            raise ZeroDivisionError

        hub.link_down = link_down  # type: ignore[method-assign]
        left.transport.hang_up(hub.peer_id, "enough")
        await hub.until_seen("down")
        await linked(right, hub)


async def test_our_own_bug_ends_no_looking_after_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.transport.transport.PING_INTERVAL_S", 0.01)
    async with mesh(1) as (one,):
        failing = Mock(side_effect=ArithmeticError)
        monkeypatch.setattr(one.transport._circuits, "tick", failing)
        await eventually(lambda: failing.call_count > 1)


async def test_a_port_in_use_is_a_clear_error() -> None:
    async with mesh(1) as (one,):
        late = Node(one.key, one.me.membership, "late")
        with pytest.raises(AddressInUse, match=f"port {one.addresses[0].port} on 127.0.0.1"):
            await late.start(one.addresses[0])


async def test_an_address_of_another_machine_is_a_clear_error() -> None:
    async with mesh(1) as (one,):
        late = Node(one.key, one.me.membership, "late")
        with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1 port 0 \(Cannot"):
            await late.start(Multiaddr("ip4", "192.0.2.1", 0))


async def test_a_start_that_fails_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async with mesh(1) as (one,):
        late = Node(one.key, one.me.membership, "late")
        failing = Mock(side_effect=OSError(errno.EMFILE, "too many open files"))
        monkeypatch.setattr("overlay.transport.transport.reachable_addresses", failing)
        with pytest.raises(OSError, match="too many"):
            await late.start()
        async with asyncio.timeout(PATIENCE_S):
            await late.transport.close()


async def test_port_zero_gives_each_a_port_of_its_own() -> None:
    async with mesh(2) as (one, other):
        [first], [second] = one.addresses, other.addresses
        assert 0 not in (first.port, second.port)
        assert first.port != second.port
        assert first.host == ANY_PORT.host


async def test_a_node_does_not_dial_itself() -> None:
    async with mesh(1) as (one,):
        with pytest.raises(LocalProtocolError):
            one.dial(one)


async def test_links_of_a_revoked_member_are_cut_and_do_not_come_back() -> None:
    async with mesh(3) as (founder, out, other):
        await linked(out, founder)
        await linked(other, founder)
        await linked(out, other)
        assert founder.me.membership is not None
        revocation, record = revoke(
            founder.key,
            founder.me.membership,
            founder.revocations,
            out.peer_id,
            time.time(),
        )
        founder.revocations.add(record)
        founder.transport.refuse_revoked()
        assert founder.seen("down") == [(out.peer_id, f"{revocation}: ask for a new invite")]
        assert other.peer_id in founder.transport.links()
        await out.until(lambda: out.shown == [record] and founder.peer_id not in links(out))
        assert str(revocation) in str(out.seen("down")[0][1])
        # It dials again, and is told again. Who has not heard of it keeps its link.
        await out.until(lambda: len(out.shown) >= 2)
        assert founder.peer_id not in links(out)
        assert other.peer_id in links(out)
        other.revocations.add(out.shown[0])
        other.transport.refuse_revoked()
        await out.until(lambda: links(out) == {})


def links(node: Node) -> dict[PeerId, LinkStatus]:
    return node.transport.links()
