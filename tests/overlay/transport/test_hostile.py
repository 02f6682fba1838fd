"""What strangers, vandals and broken members get: a refusal, and then no connection."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from dataclasses import replace

import pytest

from overlay.errors import LimitExceeded, Malformed, NotAMember, RemoteProtocolError
from overlay.identity.peer_id import PeerId
from overlay.limits import BREACHES_MAX, MESSAGE_BYTES_MAX, STRANGER_MESSAGE_BYTES_MAX
from overlay.transport import callers, incoming
from overlay.wire.anti_entropy import Syn
from overlay.wire.codec import encode
from overlay.wire.messages import (
    VERSIONS,
    Cancel,
    Goodbye,
    Hello,
    JoinRequest,
    Ping,
    Refusal,
    StreamAck,
    TokenFrame,
)
from tests.chaos.zmtp import connected
from tests.overlay.transport.nodes import PATIENCE_S, Node, eventually, keys, linked, mesh
from tests.overlay.transport.raw import RawPeer, admitted, hello_of, raw_peer

NODE_KEYS = keys()


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "_CUT_AFTER_S", 0.1)


def bare_hello(peer_id: PeerId) -> Hello:
    return Hello(VERSIONS, peer_id, b"", "", (), (), bytes(16))


async def refused(raw: RawPeer, code: str) -> None:
    answer = await raw.receive()
    assert isinstance(answer, Refusal)
    assert answer.code == code
    await raw.cut()


async def still_works(node: Node, other: Node) -> None:
    await linked(other, node)
    assert other.transport.send(node.peer_id, Cancel(b"still here"))
    assert await node.until_seen("received") == Cancel(b"still here")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(encode(Syn(())), NotAMember.code, id="gossip"),
        pytest.param(encode(Cancel(b"id")), NotAMember.code, id="forwarding"),
        pytest.param(encode(Ping(1)), NotAMember.code, id="ping"),
        pytest.param(encode(JoinRequest(bytes(8), bytes(32), "")), NotAMember.code, id="join"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", Malformed.code, id="garbage"),
        pytest.param(b"", Malformed.code, id="nothing"),
        pytest.param(
            encode(TokenFrame(b"", 0, (), "x" * STRANGER_MESSAGE_BYTES_MAX)),
            LimitExceeded.code,
            id="long",
        ),
    ],
)
async def test_a_stranger_gets_a_refusal_and_nothing_else(data: bytes, code: str) -> None:
    async with mesh(2) as (node, other), raw_peer(node, next(NODE_KEYS)) as stranger:
        await stranger.send(data)
        await refused(stranger, code)
        assert node.events == []
        await still_works(node, other)


async def test_of_strangers_that_show_revocations_the_host_is_told() -> None:
    """Each of their connections comes from another port: by that, no log could count them."""
    async with mesh(1) as (node,), raw_peer(node, next(NODE_KEYS)) as stranger:
        await stranger.send(encode(Refusal("revoked", "", b"junk")))
        await node.until(lambda: node.shown == [b"junk"])
        assert node.shown_by == ["127.0.0.1"]


async def test_a_message_of_several_frames_is_refused() -> None:
    async with mesh(1) as (node,), raw_peer(node, next(NODE_KEYS)) as stranger:
        await stranger.send(encode(Syn(())), encode(Syn(())))
        await refused(stranger, Malformed.code)


async def test_a_bare_hello_learns_only_a_nonce() -> None:
    key = next(NODE_KEYS)
    async with mesh(1) as (node,), raw_peer(node, key) as stranger:
        await stranger.send(encode(bare_hello(key.peer_id)))
        hello = await stranger.receive()
        assert isinstance(hello, Hello)
        assert hello == replace(bare_hello(node.peer_id), nonce=hello.nonce)
        await stranger.send(encode(Syn(())))
        await refused(stranger, NotAMember.code)


async def test_another_members_certificates_open_nothing() -> None:
    async with mesh(2) as (node, member):
        key = next(NODE_KEYS)
        async with raw_peer(node, key) as thief:
            await thief.send(encode(hello_of(member.me)))
            await refused(thief, "bad-signature")
        async with raw_peer(node, key) as thief:
            await thief.send(encode(replace(hello_of(member.me), peer_id=key.peer_id)))
            await refused(thief, NotAMember.code)
        assert node.events == []


async def test_a_node_that_stops_does_not_blame_who_comes_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with mesh(1) as (node,), raw_peer(node, next(NODE_KEYS)) as stranger:
        assert node.transport._listener is not None
        node.transport._listener.stop_accepting()
        await stranger.send(encode(Syn(())))
        await stranger.cut()
    assert caplog.messages == []


async def test_what_was_under_way_when_the_refusal_came_does_not_matter() -> None:
    async with mesh(1) as (node,), raw_peer(node, next(NODE_KEYS)) as stranger:
        for _ in range(3):
            await stranger.send(encode(Syn(())))
        await refused(stranger, NotAMember.code)


async def test_who_talks_on_and_on_is_cut_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "_CUT_AFTER_S", 1000.0)
    async with mesh(1) as (node,), raw_peer(node, next(NODE_KEYS)) as stranger:
        for _ in range(200):
            await stranger.send(encode(Syn(())))
        await stranger.cut()


async def test_the_first_of_too_many_strangers_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "STRANGERS_MAX", 1)
    first, second = next(NODE_KEYS), next(NODE_KEYS)
    async with mesh(1) as (node,), raw_peer(node, first) as one, raw_peer(node, second) as other:
        for raw, key in ((one, first), (other, second)):
            await raw.send(encode(bare_hello(key.peer_id)))
            assert isinstance(await raw.receive(), Hello)
        await one.cut()


async def test_who_has_zeromq_call_it_by_a_name_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """The name may be as long as a message, and costs as much with each."""
    async with mesh(2) as (node, member):
        async with raw_peer(node, member.key, routing_id=b"x" * 255) as raw:
            await raw.send(encode(hello_of(member.me)))
            await raw.cut()
        assert caplog.messages == ["127.0.0.1 is not let in: it gives itself a name"]
        assert node.events == []
        await still_works(node, member)


async def test_who_has_a_key_and_says_nothing_is_cut(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(callers, "SPEAK_S", 0.5)
    async with mesh(2) as (node, other), raw_peer(node, next(NODE_KEYS)) as mute:
        await linked(other, node)
        await mute.cut()
        assert caplog.messages == ["127.0.0.1 is not let in: it connects and says nothing"]
        assert other.transport.send(node.peer_id, Cancel(b"still here"))
        assert await node.until_seen("received") == Cancel(b"still here")


async def test_who_never_comes_to_the_end_of_a_message_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libzmq keeps all parts of a message until the last has come."""
    monkeypatch.setattr(callers, "SPEAK_S", 0.5)
    async with mesh(1) as (node,), connected(node, next(NODE_KEYS), "127.0.0.1") as endless:

        async def speak_on() -> None:
            while True:
                endless.writer.write(endless.frame(bytes(100), more=True))
                await endless.writer.drain()
                await asyncio.sleep(0)

        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ConnectionError):
                await speak_on()


@pytest.mark.parametrize(
    ("limit", "named"),
    [("CALLERS_MAX", callers.CROWD), ("CALLERS_PER_ADDRESS_MAX", "127.0.0.1")],
)
async def test_the_first_of_too_many_who_say_nothing_gives_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: str, named: str
) -> None:
    monkeypatch.setattr(callers, limit, 2)
    monkeypatch.setattr(callers, "SPEAK_S", 1000.0)
    async with (
        mesh(2) as (node, member),
        raw_peer(node, next(NODE_KEYS)) as first,
        raw_peer(node, next(NODE_KEYS)),
        raw_peer(node, next(NODE_KEYS)),
    ):
        await first.cut()
        assert caplog.messages == [f"{named} is not let in: it connects and says nothing"]
        await still_works(node, member)


async def test_a_member_that_is_cut_takes_no_strangers_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(incoming, "STRANGERS_PER_ADDRESS_MAX", 1)
    monkeypatch.setattr(incoming, "_CUT_AFTER_S", 1000.0)
    async with mesh(2) as (node, member), raw_peer(node, member.key) as raw:
        await admitted(raw, node, member.me)
        await raw.send(b"\xc1 garbage")
        await node.until_seen("down")
        newcomer = next(NODE_KEYS)
        async with raw_peer(node, newcomer) as other:
            await other.send(encode(bare_hello(newcomer.peer_id)))
            assert isinstance(await other.receive(), Hello)


async def test_an_oversized_message_ends_the_link() -> None:
    async with mesh(2) as (node, member), raw_peer(node, member.key) as raw:
        await admitted(raw, node, member.me)
        await raw.send(bytes(MESSAGE_BYTES_MAX + 100))
        await raw.cut()
        await node.until_seen("down")
        assert node.seen("received") == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xc1 garbage", id="garbage"),
        pytest.param(bytes(MESSAGE_BYTES_MAX + 1), id="a byte too many"),
        pytest.param(encode(bare_hello(PeerId(bytes(32)))), id="second hello"),
    ],
)
async def test_a_member_that_breaks_the_protocol_loses_its_link(data: bytes) -> None:
    async with mesh(2) as (node, member), raw_peer(node, member.key) as raw:
        await admitted(raw, node, member.me)
        assert isinstance(await raw.receive(), Ping)
        await raw.send(encode(StreamAck(b"r", 1)))
        await raw.send(data)
        assert isinstance(await raw.receive(), Refusal)
        reason = await node.until_seen("down")
        assert isinstance(reason, str)
        assert "broke the protocol" in reason
        assert node.messages() == [StreamAck(b"r", 1)]
        await raw.cut()


def protocol_errors() -> list[RemoteProtocolError]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, RemoteProtocolError)]


@pytest.mark.parametrize("let_in", [True, False])
async def test_what_broke_the_protocol_is_kept_by_nobody(
    monkeypatch: pytest.MonkeyPatch, let_in: bool
) -> None:
    """A broken line is there for a while, and its error; an error's frames have their locals."""
    monkeypatch.setattr(incoming, "_CUT_AFTER_S", PATIENCE_S)
    nested = b"\x92\x0a" + b"\x91" * 2000
    others = {id(error): error for error in protocol_errors()}
    async with mesh(2) as (node, member), raw_peer(node, member.key) as raw:
        if let_in:
            await admitted(raw, node, member.me)
            assert isinstance(await raw.receive(), Ping)
        await raw.send(nested)
        assert isinstance(await raw.receive(), Refusal)
        kept = [error for error in protocol_errors() if id(error) not in others]
        assert kept
        assert not any(each.__traceback__ or each.__context__ for each in kept)


async def test_a_member_that_breaks_the_protocol_again_and_again_is_banned() -> None:
    async with mesh(2) as (node, member):
        for times in range(1, BREACHES_MAX + 1):
            assert node.transport.bans() == {}
            async with raw_peer(node, member.key) as raw:
                await admitted(raw, node, member.me)
                await raw.send(b"\xc1 garbage")
                await node.until_seen("down", times)
        (ban,) = node.transport.bans().values()
        assert ban.reason.startswith("it broke the protocol again and again: ")
        async with raw_peer(node, member.key) as raw:
            await raw.send(b"anything")
            answer = await raw.receive()
            assert isinstance(answer, Refusal)
            assert "banned for" in answer.message


async def test_who_says_what_it_must_not_is_told_and_banned_in_the_end() -> None:
    async with mesh(2) as (node, member):
        for times in range(1, BREACHES_MAX + 1):
            async with raw_peer(node, member.key) as raw:
                await admitted(raw, node, member.me)
                await node.until_seen("up", times)
                node.transport.blame(member.peer_id, Malformed("a lie"))
                await node.until_seen("down", times)
        (ban,) = node.transport.bans().values()
        assert ban.reason == "it broke the protocol again and again: a lie"


async def test_a_goodbyes_words_are_made_readable() -> None:
    async with mesh(2) as (node, member), raw_peer(node, member.key) as raw:
        await admitted(raw, node, member.me)
        await raw.send(encode(Goodbye("\x1b[31mred" + "x" * 1000)))
        reason = await node.until_seen("down")
        assert isinstance(reason, str)
        assert reason.startswith("said goodbye: [31mred")
        assert len(reason) < 400


async def test_a_members_new_connection_replaces_its_old_one() -> None:
    async with mesh(2) as (node, member), raw_peer(node, member.key) as old:
        await admitted(old, node, member.me)
        async with raw_peer(node, member.key) as new:
            await new.send(encode(hello_of(member.me)))
            assert isinstance(await new.receive(), Hello)
            await node.until_seen("up", 2)
            assert [kind for kind, _, _ in node.events] == ["up", "down", "up"]
            await old.cut()
            await new.send(encode(Cancel(b"new")))
            assert await node.until_seen("received") == Cancel(b"new")


async def test_a_full_queue_says_so_and_loses_nothing() -> None:
    async with mesh(2) as (node, member), raw_peer(node, member.key, rcvhwm=1) as reader:
        await admitted(reader, node, member.me)
        taken = 0
        while node.transport.send(member.peer_id, TokenFrame(b"r", taken, (), "x" * 16_000)):
            taken += 1
            assert taken < 100_000, "the queue has no end"
        assert member.peer_id in node.transport.links()
        arrived = 0
        while arrived < taken:
            frame = await reader.receive()
            if isinstance(frame, TokenFrame):
                assert frame.seq == arrived
                arrived += 1
        # There is room again.
        await eventually(lambda: node.transport.send(member.peer_id, Cancel(b"again")))
        while await reader.receive() != Cancel(b"again"):
            pass


async def test_a_silent_member_is_down_though_its_connection_lives() -> None:
    async with mesh(2) as (node, member), raw_peer(node, member.key) as mute:
        await admitted(mute, node, member.me)
        reason = await node.until_seen("down")
        assert reason == "silent for 3 s"
        await mute.cut()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(4096), b"\xff" * 64])
async def test_other_programs_on_the_port_do_no_harm(data: bytes) -> None:
    async with mesh(2) as (node, other):
        [address] = node.addresses
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(data)
        await still_works(node, other)
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
        writer.close()
        assert len(node.events) == 2


async def test_a_dialled_port_that_is_another_program_gives_no_link() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, mesh(2) as (node, other):
        port = server.sockets[0].getsockname()[1]
        node.transport.dial(other.peer_id, [replace(other.addresses[0], port=port)])
        await eventually(lambda: other.peer_id in node.transport.failures())
        node.transport.dial(other.peer_id, other.addresses)
        await node.until_seen("up")


async def test_a_dialler_with_the_wrong_server_key_gets_no_connection() -> None:
    async with mesh(1) as (node,):
        key = next(NODE_KEYS)
        with pytest.raises(ConnectionError, match="another node"):
            async with raw_peer(node, key, expected=next(NODE_KEYS).peer_id):
                pytest.fail("connected")
        assert node.events == []
