"""A member turns on its friends: its certificate is valid, and it says what no node would."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import httpx
import msgpack
import pytest
import zmq

from models.engine import Sampling, TokenLogprob
from overlay.admission.handshake import LocalNode
from overlay.errors import RemoteProtocolError
from overlay.gossip.records import (
    CARD,
    CHAIN,
    Card,
    ModelCard,
    block_key,
    pack_chain,
    revocation_key,
)
from overlay.gossip.replica import INCARNATION_MAX
from overlay.identity.certificates import issue
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocation
from overlay.limits import (
    MEMBERS_MAX,
    MESSAGE_BYTES_MAX,
    PASSED_ON_PER_S,
    PEER_MESSAGES_PER_S,
    PLACES_PER_BRANCH_PLACE,
    RECORD_VALUE_BYTES_MAX,
)
from overlay.wire.anti_entropy import (
    COUNTER_MAX,
    Change,
    DigestEntry,
    GossipAck,
    OriginDelta,
    RevocationNotice,
    Syn,
    SynAck,
)
from overlay.wire.codec import decode, encode
from overlay.wire.messages import (
    Accepted,
    Begun,
    Cancel,
    Completed,
    Forward,
    Goodbye,
    Hello,
    JoinGrant,
    JoinRequest,
    Message,
    Ping,
    Refusal,
    Refused,
    StreamAck,
    TokenFrame,
)
from tests.chaos.fuzz_codec import mutated, valid_messages
from tests.chaos.honest import Honest
from tests.chaos.scene import (
    Attacker,
    Victim,
    attacker,
    lasting,
    let_in_as,
    named,
    stranger_sources,
    strength,
    under_attack,
)
from tests.overlay.transport.nodes import keys, let_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOW_MS = int(time.time() * 1000)
SOURCES = stranger_sources()


def forward(sender: PeerId, victim: Victim) -> Forward:
    """A request as an honest member would pass it on."""
    prompt = "How are you?"
    path = (sender,)
    return Forward(
        *(secrets.token_bytes(16), victim.model, None, None, prompt, (), 0),
        *(Sampling(max_tokens=4), path, 1, 60_000, 0),
    )


def delta(origin: PeerId, *changes: Change, incarnation: int = NOW_MS, after: int = 0) -> GossipAck:
    version = changes[-1].version if changes else after
    return GossipAck((OriginDelta(origin, incarnation, after, False, changes, version, 0),))


@asynccontextmanager
async def saying(vandal: Attacker, *messages: Message) -> AsyncIterator[None]:
    """Meanwhile it speaks on, for as long as anybody listens."""
    speaking = asyncio.create_task(vandal.say(*messages))
    try:
        yield
    finally:
        speaking.cancel()
        await asyncio.wait({speaking})


async def test_no_attack(victim: Victim, honest: Honest) -> None:
    """What the figures say where there is nothing to tell."""
    async with under_attack(victim, honest):
        async for _ in lasting():
            await asyncio.sleep(0.1)


# --- Bytes --------------------------------------------------------------------------------------


async def test_mutated_messages_after_the_handshake(victim: Victim, honest: Honest) -> None:
    rng = random.Random(1)
    corpus = [encode(message) for message in valid_messages(rng, 200)]
    async with under_attack(victim, honest):
        async for _ in lasting(8):
            said = [mutated(rng, rng.choice(corpus)) for _ in range(50)]
            async with attacker(victim, source=next(SOURCES)) as vandal:
                for data in (*said, rng.randbytes(64), b"\xc1"):
                    await vandal.raw.send(data)
                if not any(map(ends_a_link, said)):
                    await named(victim, vandal.peer_id)


def ends_a_link(data: bytes) -> bool:
    """Whether it is a farewell, after which nothing is heard."""
    try:
        return isinstance(decode(data), Goodbye | Refusal)
    except RemoteProtocolError:
        return False


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(b"\x92\x0a" + b"\x91" * (MESSAGE_BYTES_MAX - 2), id="nested"),
        pytest.param(b"\x92\x0a\xdd\xff\xff\xff\xff", id="array of 4 billion"),
        pytest.param(b"\x92\x0a\xdf\xff\xff\xff\xff", id="map of 4 billion"),
        pytest.param(b"\x92\x07\xdb\xff\xff\xff\xff", id="text of 4 GiB"),
        pytest.param(b"\x93\x0a\x90" + b"\xdd\x00\x01\x00\x00" * 200_000, id="in skipped fields"),
        pytest.param(bytes(MESSAGE_BYTES_MAX + 1), id="a byte too many"),
    ],
)
async def test_msgpack_bombs(victim: Victim, honest: Honest, bomb: bytes) -> None:
    async with under_attack(victim, honest):
        async for _ in lasting():
            async with attacker(victim, source=next(SOURCES)) as vandal:
                await vandal.raw.send(bomb)
                await named(victim, vandal.peer_id)


async def test_bombs_within_records(victim: Victim, honest: Honest) -> None:
    """Values of records are msgpack too, read by another reader."""
    async with under_attack(victim, honest):
        async for _ in lasting():
            async with attacker(victim, source=next(SOURCES)) as vandal:
                for key in (CARD, b"load", b"chain"):
                    for version, bomb in enumerate(
                        [
                            b"\x91" * RECORD_VALUE_BYTES_MAX,
                            b"\xdd\xff\xff\xff\xff",
                            b"\xdf\x00\x00\xff\xff",
                            b"\xdb\xff\xff\xff\xff",
                            b"\x93\xc0\xc0\xc0",
                            b"\xc1",
                        ],
                        1,
                    ):
                        await vandal.say(delta(vandal.peer_id, Change(key, version, bomb)))
                await vandal.heard()
                await named(victim, vandal.peer_id, "malformed")


# --- Names --------------------------------------------------------------------------------------

Forgery = Callable[[Attacker, Victim, PeerId], Message]

FORGERIES: dict[str, Forgery] = {
    "hello again": lambda a, v, third: Hello((1,), third, b"", "", (), (), bytes(16)),
    "join": lambda a, v, third: JoinRequest(bytes(8), bytes(32), "x"),
    "grant": lambda a, v, third: JoinGrant(third, (), bytes(32), "x"),
    "path of another": lambda a, v, third: replace(forward(third, v), path=(third,)),
    "empty path": lambda a, v, third: replace(forward(third, v), path=()),
    "path through the victim": lambda a, v, third: replace(
        forward(third, v), path=(v.peer_id, a.peer_id)
    ),
    "path in a loop": lambda a, v, third: replace(
        forward(third, v), path=(a.peer_id, third, a.peer_id)
    ),
    "path without end": lambda a, v, third: replace(
        forward(third, v),
        path=(*(PeerId(secrets.token_bytes(32)) for _ in range(1000)), a.peer_id),
    ),
    "too many hops": lambda a, v, third: replace(forward(a.peer_id, v), hop_limit=1 << 40),
    "less than no hops": lambda a, v, third: replace(forward(a.peer_id, v), hop_limit=-1),
    "tokens that are none": lambda a, v, third: replace(
        forward(a.peer_id, v), prompt=None, tokens=(-1, 1 << 40), model_key=bytes(16)
    ),
    "an answer begun with no tokens": lambda a, v, third: replace(
        forward(a.peer_id, v), generated=(1 << 62,), model_key=bytes(16)
    ),
    "revocation by the founder": lambda a, v, third: RevocationNotice(secrets.token_bytes(300)),
    "incarnation of the far future": lambda a, v, third: Syn(
        (DigestEntry(third, COUNTER_MAX - 1, 1, 1, 0),)
    ),
    "digest of all the world": lambda a, v, third: Syn(
        tuple(
            DigestEntry(PeerId(n.to_bytes(32, "big")), 1, 1, 1, 0) for n in range(MEMBERS_MAX + 1)
        )
    ),
    "versions out of order": lambda a, v, third: delta(
        third, Change(b"b12345678", 2, b""), Change(b"b12345679", 1, b"")
    ),
    "huge value": lambda a, v, third: delta(
        third, Change(CARD, 1, bytes(RECORD_VALUE_BYTES_MAX + 1))
    ),
    "delta of too many changes": lambda a, v, third: delta(
        third, *(Change(block_key(n), n + 1, b"") for n in range(30_000))
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
async def test_forgeries_that_end_the_link(
    victim: Victim, honest: Honest, forgery: Forgery
) -> None:
    async with under_attack(victim, honest):
        async for _ in lasting():
            async with attacker(victim, source=next(SOURCES)) as vandal:
                await vandal.say(forgery(vandal, victim, honest.peer_id))
                await named(victim, vandal.peer_id)


# --- Gossip -------------------------------------------------------------------------------------


async def test_gossip_about_the_victim_itself(victim: Victim, honest: Honest) -> None:
    """Forged records of who hears of them, again and again, up to the highest there can be."""
    async with under_attack(victim, honest):
        async for _ in lasting():
            async with attacker(victim, source=next(SOURCES)) as vandal:
                forged = Card("forged").pack()
                claims = [
                    NOW_MS + (1 << 42),
                    NOW_MS + (1 << 44),
                    INCARNATION_MAX - 1,
                    INCARNATION_MAX,
                ]
                for incarnation in claims:
                    for version in (1, COUNTER_MAX - 1):
                        change = Change(CARD, version, forged)
                        await vandal.say(delta(victim.peer_id, change, incarnation=incarnation))
                        entry = DigestEntry(
                            victim.peer_id, incarnation, COUNTER_MAX - 1, version, version
                        )
                        await vandal.say(Syn((entry,)))
                await vandal.heard()
                # Who has a link to it believes it, not what others tell.
                await named(victim, vandal.peer_id, "never wrote")


async def test_gossip_about_another_member(victim: Victim, honest: Honest) -> None:
    async with under_attack(victim, honest):
        async for _ in lasting():
            async with attacker(victim, source=next(SOURCES)) as vandal:
                change = Change(CARD, 1, Card("forged", ("/ip4/127.0.0.1/tcp/1",)).pack())
                for incarnation in (NOW_MS + (1 << 42), INCARNATION_MAX):
                    await vandal.say(delta(honest.peer_id, change, incarnation=incarnation))
                    await vandal.say(Syn((DigestEntry(honest.peer_id, incarnation, 1, 1, 0),)))
                await vandal.heard()
                await named(victim, vandal.peer_id, "not believed", honest.peer_id)


async def test_a_million_blocks(victim: Victim, honest: Honest) -> None:
    """Of itself, in deltas as large as they may be."""
    count, per_message = strength(60_000, 1_000_000), 20_000
    async with under_attack(victim, honest):
        async for _ in lasting():
            async with attacker(victim, source=next(SOURCES)) as vandal:
                for first in range(0, count, per_message):
                    changes = [
                        Change(block_key(number), number + 1, b"")
                        for number in range(first, first + per_message)
                    ]
                    await vandal.say(delta(vandal.peer_id, *changes, after=first))
                    await vandal.heard()
                    # As fast as its budget of messages allows, so that it is not cut.
                    await asyncio.sleep(strength(0, 1) * 0.25)
                await named(victim, vandal.peer_id, "not believed", "records")


async def test_origins_that_do_not_exist(victim: Victim, honest: Honest) -> None:
    """A thousand members with large records and forged chains: nobody dials them."""
    dialled = asyncio.Event()
    listening = await asyncio.start_server(lambda *_: dialled.set(), "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    card = Card("x" * 64, (f"/ip4/127.0.0.1/tcp/{port}",)).pack()
    chain = pack_chain(honest.certificates)
    async with (
        listening,
        under_attack(victim, honest),
        attacker(victim, source=next(SOURCES)) as vandal,
    ):
        for number in range(strength(20, 1100)):
            origin = NodeKey.from_seed(number.to_bytes(32, "big")).peer_id
            filler = [
                Change(b"filler%d" % n, n + 3, bytes(RECORD_VALUE_BYTES_MAX))
                for n in range(strength(1, 10))
            ]
            await vandal.say(delta(origin, Change(CARD, 1, card), Change(CHAIN, 2, chain), *filler))
            if number % 50 == 49:
                # As fast as its budget of bytes allows, so that it is not cut.
                await vandal.heard()
                await asyncio.sleep(strength(0, 1) * 0.7)
        await vandal.heard()
        await named(victim, vandal.peer_id, "malformed")
        assert not dialled.is_set()


async def test_a_crowd_that_a_member_let_in(victim: Victim, honest: Honest) -> None:
    """Of its own inventions, all with valid chains. They get a share of the places, and go."""

    async def told() -> int:
        async with httpx.AsyncClient(base_url=victim.api, timeout=30) as client:
            return (await client.get("/mesh/status")).text.count("invention")

    card = Card("invention").pack()
    async with (
        under_attack(victim, honest),
        attacker(victim, source=next(SOURCES)) as vandal,
        attacker(victim, source=next(SOURCES)) as friend,
    ):
        assert vandal.me.membership is not None
        size = strength(20, 1100)
        for _ in range(size):
            origin = NodeKey.from_seed(secrets.token_bytes(32)).peer_id
            chain = pack_chain(issue(vandal.me.key, vandal.me.membership, origin, time.time()))
            await vandal.say(delta(origin, Change(CARD, 1, card), Change(CHAIN, 2, chain)))
        await vandal.heard()
        if size > MEMBERS_MAX:
            await named(victim, vandal.peer_id, "lets in too many")
            assert await told() <= MEMBERS_MAX // PLACES_PER_BRANCH_PLACE
        else:
            assert await told() == size
        mesh = victim.membership.mesh_id
        revocation = Revocation(mesh, vandal.peer_id, victim.peer_id, int(time.time()))
        record = msgpack.packb([revocation.sign(victim.founder), []])
        await friend.say(RevocationNotice(record))
        await friend.heard()
        assert await told() == 0


async def test_malformed_records_of_origins_that_do_not_exist(
    victim: Victim, honest: Honest
) -> None:
    """However many a member makes up, it is named once a minute."""
    async with under_attack(victim, honest):
        async for _ in lasting():
            async with attacker(victim, source=next(SOURCES)) as vandal:
                for _ in range(strength(100, 1000)):
                    origin = PeerId(secrets.token_bytes(32))
                    await vandal.say(delta(origin, Change(CARD, 1, b"\xc1")))
                await named(victim, vandal.peer_id, "malformed")
                assert victim.said().count(str(vandal.peer_id)) < 10


# --- Requests and answers -----------------------------------------------------------------------


async def offer_model(vandal: Attacker, victim: Victim, name: str) -> None:
    """Make the victim believe that the attacker serves a model that nobody else has."""
    card = Card("attacker", (), (ModelCard(name, bytes(16), context_length=4096),))
    await vandal.say(delta(vandal.peer_id, Change(CARD, 1, card.pack())))
    # Before the first answer came the victim's own ping, and before the second it has read that
    # this was answered: it knows the link's round trip now, too.
    for _ in range(2):
        await vandal.heard()
    async with httpx.AsyncClient(base_url=victim.api, timeout=30) as client:
        assert name in (await client.get("/v1/models")).text


Answering = Callable[[bytes, PeerId], list[Message]]


def accepted(rid: bytes, me: PeerId) -> Message:
    return Accepted(rid, me, 1, 10)


ANSWERS: dict[str, Answering] = {
    "frames before accepted": lambda rid, me: [TokenFrame(rid, 0, (1,), "x")],
    "more than asked for": lambda rid, me: [
        accepted(rid, me),
        *(TokenFrame(rid, n, (1,) * 1000, "x" * 1000) for n in range(strength(10, 1000))),
    ],
    "text of no tokens": lambda rid, me: [
        accepted(rid, me),
        *(TokenFrame(rid, n, (), "x" * 100_000) for n in range(strength(10, 1000))),
    ],
    "tokens that are none": lambda rid, me: [accepted(rid, me), TokenFrame(rid, 0, (-1,), "x")],
    "no finish reason": lambda rid, me: [
        accepted(rid, me),
        Completed(rid, 0, "bored", 1, 1, 1, 0.0, 0.0, 0.0),
    ],
    "less than nothing": lambda rid, me: [
        accepted(rid, me),
        Completed(rid, 0, "stop", -5, -5, -5, -1.0, -1.0, -1.0),
    ],
    "log probabilities that nobody asked for": lambda rid, me: [
        accepted(rid, me),
        TokenFrame(rid, 0, (1,), "x", (TokenLogprob(b"x", -1.0, ()),)),
    ],
}


@pytest.mark.parametrize("answering", ANSWERS.values(), ids=ANSWERS)
async def test_forged_token_streams(victim: Victim, honest: Honest, answering: Answering) -> None:
    async with under_attack(victim, honest):
        async for _ in lasting():
            model = f"bait-{secrets.token_hex(4)}"
            async with (
                attacker(victim, source=next(SOURCES)) as vandal,
                httpx.AsyncClient(base_url=victim.api, timeout=30) as client,
            ):
                await offer_model(vandal, victim, model)
                body = {"model": model, "prompt": "Hello", "max_tokens": 16}
                asking = asyncio.create_task(client.post("/v1/completions", json=body))
                request = await vandal.hear(Forward)
                assert isinstance(request, Forward)
                async with saying(vandal, *answering(request.request_id, vandal.peer_id)):
                    assert (await asking).status_code >= 400, "the client is told"
                    await named(victim, vandal.peer_id)


async def test_messages_in_the_name_of_another_are_not_heard(
    victim: Victim, honest: Honest
) -> None:
    """Even who knows the id of another's request can neither answer, nor end it."""
    async with under_attack(victim, honest):
        async for _ in lasting():
            model = f"bait-{secrets.token_hex(4)}"
            async with (
                attacker(victim, source=next(SOURCES)) as member,
                attacker(victim, source=next(SOURCES)) as server,
                attacker(victim, source=next(SOURCES)) as vandal,
            ):
                await offer_model(server, victim, model)
                request = replace(forward(member.peer_id, victim), model=model)
                rid = request.request_id
                forged = (
                    Cancel(rid),
                    StreamAck(rid, 1 << 40),
                    Accepted(rid, vandal.peer_id, 2, 1),
                    Begun(rid, 1, 1.0),
                    TokenFrame(rid, 0, (1,), "forged"),
                    Completed(rid, 0, "stop", 1, 1, 1, 0.0, 0.0, 0.0),
                    Refused(rid, "overloaded", "forged"),
                )
                await vandal.say(*forged)
                await vandal.heard()
                await member.say(request)
                await server.hear(Forward)
                await vandal.say(*forged, replace(request, path=(vandal.peer_id,)))
                await vandal.heard()
                await server.say(
                    Accepted(rid, server.peer_id, 2, 1),
                    TokenFrame(rid, 0, (1,), "true"),
                    Completed(rid, 1, "stop", 1, 0, 1, 0.0, 0.0, 0.0),
                )
                heard = [await member.hear(Accepted, TokenFrame, Completed) for _ in range(3)]
                assert [getattr(message, "text", "") for message in heard] == ["", "true", ""]
                await named(victim, vandal.peer_id, "meddles")


async def test_hop_loops(victim: Victim, honest: Honest) -> None:
    """Two attackers send each other's requests back through the victim, as if they were new."""
    model = f"bait-{secrets.token_hex(4)}"
    async with (
        under_attack(victim, honest),
        attacker(victim, source=next(SOURCES)) as one,
        attacker(victim, source=next(SOURCES)) as two,
    ):
        for each in (one, two):
            await offer_model(each, victim, model)
        rounds = itertools.count(1)
        async for _ in lasting(20):
            heartbeat = next(rounds)
            # As fast as a node passes on to one peer what guests ask.
            await asyncio.sleep(strength(0, 1) * 2 / PASSED_ON_PER_S)
            for sender, receiver in ((one, two), (two, one)):
                if heartbeat % 50 == 0:  # It is still there; or else its requests would be dropped.
                    alive = DigestEntry(sender.peer_id, NOW_MS, heartbeat, 1, 0)
                    await sender.say(Syn((alive,)))
                request = replace(forward(sender.peer_id, victim), model=model, hop_limit=4)
                await sender.say(request)
                passed_on = await receiver.hear(Forward)
                assert isinstance(passed_on, Forward)
                assert passed_on.path == (sender.peer_id, victim.peer_id)
                assert passed_on.hop_limit < request.hop_limit
                # The very same again is a loop; the victim is in its path, or it has it already.
                await receiver.say(replace(passed_on, path=(receiver.peer_id,)))
                await receiver.say(Refused(request.request_id, "overloaded", "no"))
                await sender.hear(Refused)
        for each in (one, two):
            await named(victim, each.peer_id, "brings requests again")


async def test_more_requests_than_anybody_may_have(victim: Victim, honest: Honest) -> None:
    async with under_attack(victim, honest):
        async for _ in lasting():
            model = f"bait-{secrets.token_hex(4)}"
            async with (
                attacker(victim, source=next(SOURCES)) as vandal,
                attacker(victim, source=next(SOURCES)) as one,
                attacker(victim, source=next(SOURCES)) as two,
            ):
                for accomplice in (one, two):  # One gets fewer passed on than the vandal may have.
                    await offer_model(accomplice, victim, model)
                for _ in range(strength(100, 2000)):
                    await vandal.say(replace(forward(vandal.peer_id, victim), model=model))
                refusal = await vandal.hear(Refused)
                assert isinstance(refusal, Refused)
                assert refusal.code == "overloaded"
                await named(victim, vandal.peer_id, "asks for more than it may")


# --- Floods -------------------------------------------------------------------------------------


async def test_a_flood_is_cut_and_named(victim: Victim, honest: Honest) -> None:
    flood = TokenFrame(b"", 0, (), "x" * 1_000_000)
    async with under_attack(victim, honest):
        async for _ in lasting():
            async with attacker(victim, source=next(SOURCES)) as vandal:
                async with saying(vandal, *[flood] * 1000):
                    await vandal.raw.cut()
                await named(victim, vandal.peer_id, "banned")


async def test_a_crowd_that_floods_together(victim: Victim, honest: Honest) -> None:
    """A member lets in inventions of its own, and none of them sends as much as it may."""
    inviter = victim.member("inviter")
    ping = encode(Ping(1))
    async with under_attack(victim, honest), AsyncExitStack() as stack:
        sockets: list[zmq.Socket[bytes]] = []
        for key in itertools.islice(keys(), 8):
            invention = LocalNode(key, let_in(key, inviter), "invention", ())
            raw = await stack.enter_async_context(let_in_as(victim, invention, next(SOURCES)))
            sockets.append(zmq.Socket.shadow(raw.dealer))
        told = asyncio.create_task(named(victim, inviter.key.peer_id, "together"))
        async for _ in lasting():
            while True:
                for socket in sockets:
                    for _ in range(PEER_MESSAGES_PER_S // 100):
                        socket.send(ping, zmq.NOBLOCK)
                    with contextlib.suppress(zmq.Again):
                        while True:
                            socket.recv(zmq.NOBLOCK)
                await asyncio.sleep(0.03)  # So each sends a third of what it may.
                if told.done():
                    break
        await told


async def test_revocations_that_nobody_made(victim: Victim, honest: Honest) -> None:
    """Published by the hundred; and a chain that is another's."""
    async with under_attack(victim, honest):
        async for _ in lasting():
            async with attacker(victim, source=next(SOURCES)) as vandal:
                records = [secrets.token_bytes(200) for _ in range(strength(200, 4000))]
                changes = [
                    Change(revocation_key(record), version, record)
                    for version, record in enumerate(records, 1)
                ]
                await vandal.say(delta(vandal.peer_id, *changes))
                chain = pack_chain(honest.certificates)
                last = len(changes)
                await vandal.say(
                    delta(vandal.peer_id, Change(b"chain", last + 1, chain), after=last)
                )
                await vandal.say(SynAck((), ()))
                await vandal.heard()
                await named(victim, vandal.peer_id, "malformed")


async def test_revocations_without_end(victim: Victim, honest: Honest) -> None:
    """Each is valid, and takes the place of an older one."""
    async with under_attack(victim, honest), attacker(victim, source=next(SOURCES)) as vandal:
        assert vandal.me.membership is not None
        chain, mesh = list(vandal.me.membership.certificates), victim.membership.mesh_id
        at = itertools.count(int(time.time()))

        async def revoke() -> None:
            subject = PeerId(secrets.token_bytes(32))
            statement = Revocation(mesh, subject, vandal.peer_id, next(at)).sign(vandal.me.key)
            await vandal.say(RevocationNotice(msgpack.packb([statement, chain])))

        async for _ in lasting():
            for _ in range(strength(200, 1000)):
                await revoke()
            await vandal.heard()
        # Of all that come in a round, from whomever, only so many are looked at.
        naming = asyncio.create_task(named(victim, "revoked by", vandal.peer_id))
        while not naming.done():
            await revoke()
            await vandal.heard()
        await naming
