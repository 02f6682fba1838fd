"""The delay proxy delays, and does nothing else to a connection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.delay_proxy import DelayProxy, Line

DELAY_S = 0.02


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with what comes, and end when the other side has ended."""
    while data := await reader.read(1 << 12):
        writer.write(data)
    writer.write(b"the end")
    writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a byte and break off, with more unread: that resets a TCP connection."""
    await reader.read(1)
    writer.transport.abort()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def proxied(
    stack: AsyncExitStack, *, to: str = "echo", delay_s: float = DELAY_S, jitter_s: float = 0.0
) -> DelayProxy:
    proxy = await DelayProxy.start(delay_s, jitter_s, random.Random(1))
    stack.push_async_callback(proxy.close)
    server = await asyncio.start_server({"echo": echo, "hang up": hang_up}[to], "127.0.0.1", 0)
    stack.callback(server.close)
    proxy.target = server.sockets[0].getsockname()
    return proxy


async def connect(
    stack: AsyncExitStack, proxy: DelayProxy
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    stack.callback(writer.close)
    return reader, writer


@given(
    delay_s=st.floats(0, 2),
    jitter_s=st.floats(0, 1),
    pauses_s=st.lists(st.floats(0, 1), max_size=30),
    seed=st.integers(0, 1000),
)
def test_a_line_keeps_order_and_its_bounds(
    delay_s: float, jitter_s: float, pauses_s: list[float], seed: int
) -> None:
    line = Line(delay_s, jitter_s, random.Random(seed))
    now, before = 0.0, 0.0
    for pause_s in pauses_s:
        now += pause_s
        arrival = line.arrival(now)
        assert arrival >= max(before, now + delay_s)
        assert arrival <= max(before, now + delay_s + jitter_s)
        before = arrival


async def test_everything_arrives_in_order(stack: AsyncExitStack) -> None:
    proxy = await proxied(stack, delay_s=0.001, jitter_s=0.003)
    reader, writer = await connect(stack, proxy)
    dice = random.Random(2)
    sent = b""
    for _ in range(50):
        part = dice.randbytes(dice.randrange(1, 5000))
        sent += part
        writer.write(part)
        await writer.drain()
    assert await reader.readexactly(len(sent)) == sent
    assert proxy.connections == 1


async def test_a_round_trip_takes_two_delays(stack: AsyncExitStack) -> None:
    reader, writer = await connect(stack, await proxied(stack))
    clock = asyncio.get_running_loop().time
    begun = clock()
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"
    assert clock() - begun >= 2 * DELAY_S


async def test_an_end_is_carried_one_way(stack: AsyncExitStack) -> None:
    reader, writer = await connect(stack, await proxied(stack))
    writer.write(b"all I have")
    writer.write_eof()
    assert await reader.read() == b"all I havethe end"


async def test_a_broken_connection_ends_on_the_other_side(stack: AsyncExitStack) -> None:
    reader, writer = await connect(stack, await proxied(stack, to="hang up"))
    writer.write(b"hello?")
    assert await reader.read() == b""


@pytest.mark.parametrize("named", [True, False])
async def test_nobody_at_home_ends_the_connection(stack: AsyncExitStack, named: bool) -> None:
    proxy = await proxied(stack)
    nobody = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy.target = nobody.sockets[0].getsockname() if named else None
    nobody.close()
    reader, _ = await connect(stack, proxy)
    assert await reader.read() == b""


async def test_closing_breaks_open_connections(stack: AsyncExitStack) -> None:
    proxy = await proxied(stack)
    reader, writer = await connect(stack, proxy)
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"
    await proxy.close()
    assert await reader.read() == b""
