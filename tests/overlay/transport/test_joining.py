"""A stranger with a token becomes a member; without a good one it hears why not."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from overlay.errors import (
    ConfigError,
    InviteExpired,
    InviteUnknown,
    InviteUsedUp,
    Overloaded,
    Unreachable,
)
from overlay.identity.invites import JoinToken
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.transport.joining import join
from overlay.wire.messages import Cancel
from tests.overlay.transport.nodes import Node, keys, mesh

NODE_KEYS = keys()


def invite(node: Node, *, ttl_s: float = 60.0, uses: int = 1, at: float | None = None) -> JoinToken:
    now = time.time() if at is None else at
    issued = node.ledger.issue(now, ttl_s, uses, "a friend", secrets.token_bytes(16))
    assert node.me.membership is not None
    return JoinToken.of(issued, node.peer_id, node.me.membership.mesh_id, tuple(node.addresses))


@asynccontextmanager
async def member(key_of: Node) -> AsyncIterator[Node]:
    await key_of.start()
    try:
        yield key_of
    finally:
        await key_of.transport.close()


async def test_a_token_makes_a_member_that_links_at_once() -> None:
    async with mesh(1) as (founder,):
        token = invite(founder)
        key = next(NODE_KEYS)
        membership, inviter = await join(key, token, "friend")
        assert founder.me.membership is not None
        assert membership == replace(
            membership,
            founder=founder.peer_id,
            mesh_secret=founder.me.membership.mesh_secret,
        )
        assert inviter.peer_id == founder.peer_id
        assert inviter.name == "founder"
        assert founder.ledger_writes == 1
        assert founder.events == []
        async with member(Node(key, membership, "friend")) as friend:
            friend.dial(founder)
            await friend.until_seen("up")
            await founder.until_seen("up")
            assert founder.transport.send(friend.peer_id, Cancel(b"welcome"))
            assert await friend.until_seen("received") == Cancel(b"welcome")


async def test_a_joined_member_invites_the_next() -> None:
    async with mesh(1) as (founder,):
        key, last = next(NODE_KEYS), next(NODE_KEYS)
        membership, _ = await join(key, invite(founder), "friend")
        async with member(Node(key, membership, "friend")) as friend:
            second, _ = await join(last, invite(friend), "friend of a friend")
            async with member(Node(last, second, "friend of a friend")) as newest:
                newest.dial(founder)
                await newest.until_seen("up")


async def test_an_invite_works_once_and_then_says_so() -> None:
    async with mesh(1) as (founder,):
        token = invite(founder)
        key = next(NODE_KEYS)
        await join(key, token, "first")
        with pytest.raises(InviteUsedUp):
            await join(next(NODE_KEYS), token, "second")
        # The first one's grant may have been lost.
        await join(key, token, "first")


async def test_a_ledger_that_cannot_be_written_grants_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full_disk() -> None:
        raise ConfigError("cannot use invites.json: no space left on device")

    async with mesh(1) as (founder,):
        token = invite(founder, uses=2)
        founder.on_ledger = full_disk
        for _ in range(2):
            with pytest.raises(Overloaded, match="cannot write to its disk"):
                await join(next(NODE_KEYS), token, "friend")
    # Whoever has a token can try again and again.
    [line] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "no space left" in line.message
    assert line.exc_info is None


async def test_who_comes_again_after_a_full_disk_is_written_down_before_it_has_its_grant() -> None:
    """Else the invite would be open again after the next start."""
    written: list[tuple[PeerId, ...]] = []

    def full_disk() -> None:
        raise ConfigError("cannot use invites.json: no space left on device")

    async with mesh(1) as (founder,):
        token, key = invite(founder), next(NODE_KEYS)
        founder.on_ledger = full_disk
        with pytest.raises(Overloaded):
            await join(key, token, "friend")
        founder.on_ledger = lambda: written.extend(each.joined for each in founder.ledger.list())
        await join(key, token, "friend")
    assert written == [(key.peer_id,)]


async def test_many_join_at_the_same_time() -> None:
    async with mesh(1) as (founder,):
        token = invite(founder, uses=5)
        outcomes = await asyncio.gather(
            *(join(next(NODE_KEYS), token, f"friend {index}") for index in range(8)),
            return_exceptions=True,
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert [type(error) for error in refused] == [InviteUsedUp] * 3


async def test_an_expired_token_is_refused_here_and_there() -> None:
    async with mesh(1) as (founder,):
        token = invite(founder, at=time.time() - 100, ttl_s=50)
        with pytest.raises(InviteExpired):
            await join(next(NODE_KEYS), token, "late")
        # This machine's clock may be behind; the inviter's is what counts.
        with pytest.raises(InviteExpired):
            await join(next(NODE_KEYS), replace(token, expires_at=int(time.time() + 100)), "late")


async def test_a_cancelled_invite_is_unknown() -> None:
    async with mesh(1) as (founder,):
        token = invite(founder)
        founder.ledger.cancel(token.invite_id)
        with pytest.raises(InviteUnknown):
            await join(next(NODE_KEYS), token, "friend")


async def test_nobody_there_names_the_addresses_tried() -> None:
    async with mesh(1) as (founder,):
        token = invite(founder)
    with pytest.raises(Unreachable, match=str(founder.addresses[0])):
        await join(next(NODE_KEYS), token, "friend")
    with pytest.raises(Unreachable, match="no address"):
        await join(next(NODE_KEYS), replace(token, addresses=()), "friend")


async def test_addresses_are_tried_in_turn() -> None:
    async with mesh(2) as (founder, other):
        token = invite(founder)
        dead = Multiaddr("ip4", "127.0.0.1", 1)
        token = replace(token, addresses=(dead, *other.addresses, *token.addresses))
        _, inviter = await join(next(NODE_KEYS), token, "friend")
        assert inviter.peer_id == founder.peer_id
