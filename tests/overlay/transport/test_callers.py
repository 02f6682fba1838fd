"""Who connects and says nothing, seen by itself: a ROUTER, and TCP connections to it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import zmq

from overlay.transport import callers
from overlay.transport.callers import CROWD, Callers
from overlay.transport.sockets import Connection
from tests.overlay.transport.nodes import PATIENCE_S, eventually


class Listening:
    """``told``: whose connections were cut."""

    def __init__(self, router: zmq.Socket[bytes], port: int) -> None:
        self.port = port
        self.told: list[str] = []
        self.callers = Callers(router, {port}, self.told.append)

    async def call(self) -> Call:
        """Somebody connects, and that is noticed."""
        silent = self.callers._silent
        before = set(map(id, silent.values()))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        port = writer.get_extra_info("sockname")[1]
        call = Call(reader, writer, f"127.0.0.1:{port}")
        await eventually(lambda: any(each.remote == call.name for each in silent.values()))
        [call.accepted] = [each for each in silent.values() if id(each) not in before]
        return call


class Call:
    accepted: Connection

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str
    ) -> None:
        self._reader, self._writer = reader, writer
        self.name = name

    async def cut(self) -> None:
        """Wait for its end."""
        async with asyncio.timeout(PATIENCE_S):
            await self._reader.read()
        self.hang_up()

    def hang_up(self) -> None:
        self._writer.close()

    @property
    def lasts(self) -> bool:
        return not self._reader.at_eof()


@asynccontextmanager
async def listening() -> AsyncIterator[Listening]:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        made = Listening(router, router.bind_to_random_port("tcp://127.0.0.1"))
        try:
            yield made
        finally:
            made.callers.close()


async def test_who_spoke_is_not_cut_and_takes_nobodys_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callers, "CALLERS_PER_ADDRESS_MAX", 1)
    async with listening() as node:
        member = await node.call()
        node.callers.spoke(member.accepted)
        first, second = await node.call(), await node.call()
        await first.cut()
        assert node.told == ["127.0.0.1"]
        assert member.lasts
        assert second.lasts
        member.hang_up()
        second.hang_up()


async def test_who_says_nothing_is_cut_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "SPEAK_S", 0.2)
    async with listening() as node:
        member, mute = await node.call(), await node.call()
        node.callers.spoke(member.accepted)
        await mute.cut()
        assert member.lasts
        member.hang_up()


async def test_of_a_crowd_nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "CALLERS_MAX", 1)
    async with listening() as node:
        first, second = await node.call(), await node.call()
        await first.cut()
        assert node.told == [CROWD]
        second.hang_up()


async def test_who_left_by_itself_is_not_blamed() -> None:
    async with listening() as node:
        call = await node.call()
        call.hang_up()
        port = {node.port}
        await eventually(lambda: Connection.accepted(call.accepted.descriptor, port) is None)
        node.callers._judge(call.accepted)
        assert node.told == []
        assert not node.callers._silent


async def test_of_those_that_are_over_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "SPEAK_S", 0.2)
    async with listening() as node:
        calls = [await node.call() for _ in range(3)]
        node.callers.spoke(calls[0].accepted)
        for call in calls[1:]:
            await call.cut()
        node.callers.left(calls[0].accepted)
        calls[0].hang_up()
        assert [*node.callers._silent, *node.callers._spoke, *node.callers._from] == []


async def test_the_news_of_who_was_quicker_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first message may be read before ZeroMQ's word that it was accepted."""
    monkeypatch.setattr(callers, "SPEAK_S", 0.2)
    async with listening() as node:
        member = await node.call()
        node.callers.spoke(member.accepted)
        event = struct.pack("=HI", zmq.EVENT_ACCEPTED, member.accepted.descriptor)
        node.callers._accepted([zmq.Frame(event)])
        await (await node.call()).cut()
        assert member.lasts
        member.hang_up()


async def test_a_descriptor_that_is_the_next_callers_by_now_is_the_next_callers() -> None:
    async with listening() as node:
        first = await node.call()
        node.callers.spoke(first.accepted)
        first.hang_up()
        # The system gives its descriptor to one of the next.
        async with asyncio.timeout(PATIENCE_S):
            while (following := await node.call()).accepted.descriptor != (
                first.accepted.descriptor
            ):
                following.hang_up()
        assert following.accepted in node.callers._silent.values()
        node.callers.left(first.accepted)
        node.callers.spoke(following.accepted)
        node.callers.left(first.accepted)
        assert following.accepted in node.callers._spoke.values()
        following.hang_up()
