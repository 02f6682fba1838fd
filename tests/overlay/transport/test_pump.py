"""Nothing stays unread, however sending and receiving meet."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import zmq

from overlay.transport import pump
from overlay.transport.pump import Pump
from tests.overlay.transport.nodes import PATIENCE_S


@pytest.fixture
def pair() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """Two ends of a connection."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
        one.bind("inproc://pair")
        two.connect("inproc://pair")
        yield one, two


class End:
    """A pump, what came in through it, and an event for each."""

    def __init__(self, link: zmq.Socket[bytes]) -> None:
        self.got: list[bytes] = []
        self.news = asyncio.Event()
        self.pump = Pump(link, self._arrived)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.got) < count:
                self.news.clear()
                await self.news.wait()

    def _arrived(self, frames: list[zmq.Frame]) -> None:
        self.got += [frame.bytes for frame in frames]
        self.news.set()


Pair = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]


async def test_all_arrives_in_order(pair: Pair) -> None:
    one, two = map(End, pair)
    sent = [b"%d" % number for number in range(500)]
    for data in sent:
        assert one.pump.offer([data]) is None
    await two.until(len(sent))
    assert two.got == sent
    two.pump.close()
    one.pump.close()


async def test_others_have_their_turn_in_between(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to handle what has come."""
    seconds = itertools.count()
    monkeypatch.setattr(pump, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    one, two = map(End, pair)
    for number in range(10):
        one.pump.offer([b"%d" % number])
    seen = set()
    while len(two.got) < 10:
        seen.add(len(two.got))
        await asyncio.sleep(0)
    assert seen == set(range(10))
    two.pump.close()
    one.pump.close()


async def test_a_bug_leaves_nothing_unread(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    one, two = map(End, pair)

    def arrived(frames: list[zmq.Frame]) -> None:
        two._arrived(frames)
        if len(two.got) == 1:
            raise ArithmeticError

    two.pump._arrived = arrived
    for data in (b"1", b"2"):
        one.pump.offer([data])
    await two.until(2)
    assert "ArithmeticError" in caplog.text
    two.pump.close()
    one.pump.close()


async def test_who_sends_all_the_time_reads_all_the_same(pair: Pair) -> None:
    """Sending takes the news that something has come, which are told only once."""
    one, two = map(End, pair)
    for number in range(2000):
        one.pump.offer([b"%d" % number])
        two.pump.offer([b"%d" % number])
        if number % 7 == 0:
            await asyncio.sleep(0)
    await one.until(2000)
    await two.until(2000)
    assert one.got == two.got == [b"%d" % number for number in range(2000)]
    one.pump.close()
    two.pump.close()


async def test_what_cannot_be_sent_takes_no_news_away() -> None:
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as router,
        context.socket(zmq.DEALER) as dealer,
    ):
        router.router_mandatory = True
        router.bind("inproc://router")
        end = End(router)
        await asyncio.sleep(0)  # It has looked, and waits for news.
        dealer.connect("inproc://router")
        dealer.send(b"news")
        # ZeroMQ takes in news when it sends, though not each time.
        assert all(end.pump.offer([b"nobody", b""]) is not None for _ in range(1000))
        await end.until(2)
        assert end.got[1] == b"news"
        end.pump.close()


async def test_what_cannot_be_queued_is_told() -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as alone:
        end = End(alone)
        assert isinstance(end.pump.offer([b"to nobody"]), zmq.Again)
        end.pump.close()


async def test_a_closed_pump_reads_no_more(pair: Pair) -> None:
    one, two = map(End, pair)
    one.pump.offer([b"first"])
    await two.until(1)
    two.pump.close()
    two.pump.close()
    one.pump.offer([b"second"])
    two.pump.drain()
    assert two.got == [b"first"]
    one.pump.close()
