"""When a peer is dialled, and when not."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.multiaddr import Multiaddr
from overlay.limits import DIALS_PER_S, REDIAL_MAX_S, REDIAL_MIN_S
from overlay.transport import dialling
from overlay.transport.dialling import Backoff, Dial, DialTurns, Ending
from tests.overlay.transport.nodes import PATIENCE_S

ADDRESSES = [Multiaddr("ip4", "192.0.2.1", port) for port in (1, 2, 3)]


class Attempts:
    """Says yes to nothing, and tells what was tried."""

    def __init__(self) -> None:
        self.made: asyncio.Queue[Multiaddr] = asyncio.Queue()
        self.failures: list[int] = []

    async def __call__(self, address: Multiaddr, failures: int) -> Ending:
        self.failures.append(failures)
        self.made.put_nowait(address)
        return Ending("no", was_up=False)

    async def next(self) -> Multiaddr:
        async with asyncio.timeout(PATIENCE_S):
            return await self.made.get()


@given(st.integers())
def test_pauses_grow_and_have_an_end(seed: int) -> None:
    backoff = Backoff(random.Random(seed))
    pauses = [backoff.pause_s() for _ in range(20)]
    for index, pause_s in enumerate(pauses):
        longest = min(REDIAL_MIN_S * 2**index, REDIAL_MAX_S)
        assert longest / 2 <= pause_s <= longest


def test_a_link_that_lasted_resets_the_pause() -> None:
    backoff = Backoff(random.Random(1))
    for _ in range(5):
        backoff.pause_s()
    assert not backoff.link_ended(0.01)
    assert backoff.pause_s() > REDIAL_MIN_S
    assert backoff.link_ended(60.0)
    # For as long as the next pause is long enough.
    assert backoff.link_ended(REDIAL_MIN_S)
    assert backoff.pause_s() <= REDIAL_MIN_S


def test_who_was_away_for_long_is_dialled_at_once_when_its_link_breaks() -> None:
    """It may be back on a network that is not up to much, and only this side can dial."""
    backoff = Backoff(random.Random(1))
    while backoff.pause_s() < REDIAL_MAX_S / 2:
        pass
    backoff.link_ended(10.0)
    assert backoff.pause_s() <= REDIAL_MIN_S


async def test_addresses_in_turn_then_again() -> None:
    attempts = Attempts()
    dial = Dial(ADDRESSES, attempts, random.Random(1))
    dial.start()
    assert [await attempts.next() for _ in range(6)] == ADDRESSES * 2
    assert attempts.failures[:6] == [0, 1, 2, 3, 4, 5]
    assert dial.failure == "no"
    await dial.stop()


async def test_after_a_link_that_lasted_the_address_that_led_to_it_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialling, "_SETTLED_S", 0.0)
    attempts = Attempts()

    async def one_leads_there(address: Multiaddr, failures: int) -> Ending:
        await attempts(address, failures)
        return Ending("it broke", was_up=len(attempts.failures) == 2)

    dial = Dial(ADDRESSES, one_leads_there, random.Random(1))
    dial.start()
    first, good, last = ADDRESSES
    assert [await attempts.next() for _ in range(5)] == [first, good, good, first, last]
    await dial.stop()


async def test_a_bug_in_one_attempt_does_not_end_all_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempts = Attempts()

    async def fail_once(address: Multiaddr, failures: int) -> Ending:
        if attempts.made.empty() and not caplog.text:
            raise ArithmeticError
        return await attempts(address, failures)

    dial = Dial(ADDRESSES[:2], fail_once, random.Random(1))
    dial.start()
    assert await attempts.next() == ADDRESSES[1]
    assert "ArithmeticError" in caplog.text
    await dial.stop()


async def test_new_addresses_are_tried_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "REDIAL_MIN_S", 3600.0)
    monkeypatch.setattr(dialling, "REDIAL_MAX_S", 36000.0)
    pauses: list[float] = []

    class Watched(Backoff):
        def pause_s(self) -> float:
            pauses.append(super().pause_s())
            return pauses[-1]

    monkeypatch.setattr(dialling, "Backoff", Watched)
    attempts = Attempts()
    dial = Dial(ADDRESSES[:1], attempts, random.Random(1))
    dial.start()
    assert await attempts.next() == ADDRESSES[0]
    dial.update(ADDRESSES)
    assert [await attempts.next() for _ in range(3)] == ADDRESSES
    dial.update(ADDRESSES)
    for _ in range(20):
        await asyncio.sleep(0)
    assert attempts.made.empty(), "they are no news"
    dial.hurry()
    assert [await attempts.next() for _ in range(3)] == ADDRESSES
    assert len(pauses) == 3
    assert max(pauses) <= 3600.0, "with news, all begins anew"
    await dial.stop()


async def test_on_hold_nothing_is_dialled() -> None:
    attempts = Attempts()
    dial = Dial(ADDRESSES, attempts, random.Random(1))
    dial.hold()
    dial.start()
    for _ in range(20):
        await asyncio.sleep(0)
    assert attempts.made.empty()
    dial.resume()
    assert await attempts.next() == ADDRESSES[0]
    await dial.stop()


async def test_so_many_attempts_are_under_way_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "DIALS_AT_ONCE_MAX", 2)
    turns = DialTurns()
    begun: asyncio.Queue[int] = asyncio.Queue()
    ended = asyncio.Event()

    async def attempt(number: int) -> None:
        async with turns.turn(0):
            begun.put_nowait(number)
            await ended.wait()

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(attempt(number))
        assert [await begun.get(), await begun.get()] == [0, 1]
        assert begun.empty()
        ended.set()
        assert await begun.get() == 2


async def test_attempts_that_come_too_fast_wait_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "DIALS_BURST", 1)
    turns = DialTurns()
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("overlay.transport.dialling.asyncio.sleep", wait)
    for _ in range(3):
        async with turns.turn(0):
            pass
    assert waits[0] == 0.0 < waits[1] < waits[2] <= 2 / DIALS_PER_S
