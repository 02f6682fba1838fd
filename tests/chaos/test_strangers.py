"""Whoever reaches the port attacks: without a certificate, and mostly without a key."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from overlay.errors import BadSignature, InviteUsedUp, NotAMember
from overlay.identity.invites import JoinToken
from overlay.identity.keys import NodeKey
from overlay.limits import (
    CALLERS_PER_ADDRESS_MAX,
    STRANGER_MESSAGE_BYTES_MAX,
    STRANGERS_PER_ADDRESS_MAX,
)
from overlay.wire.codec import encode
from overlay.wire.messages import PROTOCOL_VERSION, Hello, JoinGrant, JoinRequest, Refusal
from tests.chaos.fuzz_codec import mutated, valid_messages
from tests.chaos.honest import Honest
from tests.chaos.scene import (
    PACE,
    Victim,
    attacker,
    lasting,
    named,
    stranger_sources,
    strength,
    under_attack,
)
from tests.chaos.zmtp import GREETING, connected
from tests.overlay.transport.nodes import PATIENCE_S
from tests.overlay.transport.raw import RawPeer, hello_of, raw_peer

pytestmark = pytest.mark.asyncio(loop_scope="session")

SOURCES = stranger_sources(first=128)

#: A frame with the command HELLO of CURVE, as long as it must be, in which nothing is true.
CURVE_HELLO = b"\x04\xc8\x05HELLO\x01\x00" + bytes(192)


def fresh_key() -> NodeKey:
    return NodeKey.from_seed(secrets.token_bytes(32))


def bare_hello(key: NodeKey) -> Hello:
    return Hello((PROTOCOL_VERSION,), key.peer_id, b"", "", (), (), bytes(16))


# --- Before the handshake -----------------------------------------------------------------------


@asynccontextmanager
async def connections(
    victim: Victim, source: str, count: int
) -> AsyncIterator[list[socket.socket]]:
    """So many TCP connections from one address, begun at once."""
    found = []
    loop = asyncio.get_running_loop()
    address = (victim.address.host, victim.address.port)
    try:
        for number in range(count):
            each = socket.socket()
            found.append(each)
            each.setblocking(False)
            each.bind((source, 0))
            with contextlib.suppress(BlockingIOError):
                each.connect(address)
            if number % 50 == 49:
                # Of more than ZeroMQ's backlog, the system would drop some.
                await asyncio.sleep(0.02)
                await PACE.keep()
        async with asyncio.timeout(PATIENCE_S):
            await loop.sock_sendall(found[-1], b"\xff")
        yield found
    finally:
        for each in found:
            each.close()


@pytest.mark.parametrize("kind", ["random bytes", "mutated greetings", "greeting, then random"])
async def test_bytes_before_the_handshake(victim: Victim, honest: Honest, kind: str) -> None:
    rng = random.Random(kind)
    async with under_attack(victim, honest):
        async for _ in lasting(50):
            _, writer = await asyncio.open_connection(
                victim.address.host, victim.address.port, local_addr=(next(SOURCES), 0)
            )
            match kind:
                case "random bytes":
                    data = rng.randbytes(rng.randint(1, 4096))
                case "mutated greetings":
                    data = mutated(rng, GREETING + CURVE_HELLO)
                case _:
                    data = GREETING + rng.randbytes(rng.randint(1, 4096))
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()


async def test_slowloris(victim: Victim, honest: Honest) -> None:
    """Connections that say a byte now and then keep nobody out."""
    async with (
        under_attack(victim, honest),
        connections(victim, next(SOURCES), strength(50, 500)) as slow,
    ):
        for byte in GREETING[1 : strength(4, 12)]:
            for each in slow:
                with contextlib.suppress(OSError):
                    each.send(bytes([byte]))
            async with attacker(victim, source=next(SOURCES)):
                pass  # A member gets its link all the same.
            await asyncio.sleep(strength(0, 1))


async def test_half_open_connections(victim: Victim, honest: Honest) -> None:
    """More than one address has places for; the oldest gives way, and the address is named."""
    count = strength(300, 10_000)
    before = victim.descriptors()
    source = next(SOURCES)
    async with under_attack(victim, honest), connections(victim, source, count):
        await named(victim, source, "says nothing")
        async with asyncio.timeout(PATIENCE_S):
            while victim.descriptors() - before > CALLERS_PER_ADDRESS_MAX:
                await asyncio.sleep(0.02)
                await PACE.keep()
        async for _ in lasting():
            async with attacker(victim, source=next(SOURCES)):
                pass  # A member gets its link all the same.
            await asyncio.sleep(strength(0, 1) * 0.1)


# --- With a key of one's own --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mutated", "random", "long"])
async def test_bytes_before_admission(victim: Victim, honest: Honest, kind: str) -> None:
    rng = random.Random(kind)
    corpus = [encode(message) for message in valid_messages(rng, 200)]
    async with under_attack(victim, honest):
        async for _ in lasting(10):
            source = next(SOURCES)
            async with raw_peer(victim, fresh_key(), source=source) as raw:
                # Whatever it is, four messages are more than a stranger may say of any kind.
                for _ in range(5):
                    match kind:
                        case "mutated":
                            data = mutated(rng, rng.choice(corpus))
                        case "random":
                            data = rng.randbytes(100)
                        case _:
                            data = bytes(STRANGER_MESSAGE_BYTES_MAX + 1)
                    await raw.send(data)
                await named(victim, source, "not let in")


async def test_pings_of_zeromq_in_a_flood(victim: Victim, honest: Honest) -> None:
    """The connection breaks before all is read. libzmq aborted where its queue had been full."""
    async with under_attack(victim, honest):
        async for _ in lasting(5):
            source = next(SOURCES)
            async with connected(victim, fresh_key(), source) as client:
                frames = []
                for _ in range(3000):
                    frames.append(client.frame(b"no message"))
                    frames.append(client.frame(b"\x04PING\x00\x00", command=True))
                client.writer.write(b"".join(frames))
                with contextlib.suppress(ConnectionError):
                    await client.writer.drain()
            await named(victim, source, "not let in")


async def test_more_strangers_than_one_address_may_have(victim: Victim, honest: Honest) -> None:
    async with under_attack(victim, honest):
        async for _ in lasting():
            source = next(SOURCES)
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(STRANGERS_PER_ADDRESS_MAX + 1):
                    key = fresh_key()
                    raw = await stack.enter_async_context(raw_peer(victim, key, source=source))
                    await raw.send(encode(bare_hello(key)))
                await named(victim, source, "too many")
                async with attacker(victim, source=next(SOURCES)):
                    pass


async def test_a_stolen_certificate_with_another_key(victim: Victim, honest: Honest) -> None:
    """In the owner's name, or in the thief's own."""
    stolen = hello_of(victim.member("owner"))
    async with under_attack(victim, honest):
        async for _ in lasting():
            key, source = fresh_key(), next(SOURCES)
            async with raw_peer(victim, key, source=source) as thief:
                await thief.send(encode(stolen))
                await refused(thief, BadSignature.code)
                # It could not show whose key it has: the address must do.
                await named(victim, source, "not let in")
            source = next(SOURCES)
            async with raw_peer(victim, key, source=source) as thief:
                await thief.send(encode(replace(stolen, peer_id=key.peer_id)))
                await refused(thief, NotAMember.code)
                await named(victim, source, key.peer_id)


async def refused(raw: RawPeer, code: str) -> None:
    answer = await raw.receive()
    assert isinstance(answer, Refusal)
    assert answer.code == code


async def test_replayed_joins(victim: Victim, honest: Honest) -> None:
    """What a joiner said is of no use to anybody else, nor to itself a second time."""
    token = JoinToken.parse(victim.token)
    joiner, thief = fresh_key(), fresh_key()
    async with under_attack(victim, honest):
        async with raw_peer(victim, joiner, source=next(SOURCES)) as raw:
            await raw.send(encode(bare_hello(joiner)))
            hello = await raw.receive()
            assert isinstance(hello, Hello)
            proof = token.prove(hello.nonce, joiner.peer_id)
            overheard = encode(JoinRequest(token.invite_id, proof, "joiner"))
            await raw.send(overheard)
            assert isinstance(await raw.receive(), JoinGrant)
        async for _ in lasting():
            # Another key, and the joiner's own, each on a new connection with a nonce of its own.
            for key in (thief, joiner):
                source = next(SOURCES)
                async with raw_peer(victim, key, source=source) as raw:
                    await raw.send(encode(bare_hello(key)))
                    assert isinstance(await raw.receive(), Hello)
                    await raw.send(overheard)
                    await refused(raw, BadSignature.code)
                    await named(victim, source, key.peer_id)
            # Even the token itself is used up.
            source = next(SOURCES)
            async with raw_peer(victim, thief, source=source) as raw:
                await raw.send(encode(bare_hello(thief)))
                hello = await raw.receive()
                assert isinstance(hello, Hello)
                proof = token.prove(hello.nonce, thief.peer_id)
                await raw.send(encode(JoinRequest(token.invite_id, proof, "thief")))
                await refused(raw, InviteUsedUp.code)
                await named(victim, source, thief.peer_id)
