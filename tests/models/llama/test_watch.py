"""When a thread of an engine's process is taken to hang."""

from __future__ import annotations

import asyncio

import pytest

from models.llama import watch
from models.llama.watch import LOOKS, Watch


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in each turn of the loop."""
    monkeypatch.setattr(watch, "LOOK_S", 0)


async def test_who_says_something_has_time_however_long_it_takes() -> None:
    hung = asyncio.Event()
    thread = Watch(hung.set)
    thread.owes("answer")
    for _ in range(5 * LOOKS):
        thread.spoke()
        await asyncio.sleep(0)
    assert not hung.is_set()
    await hung.wait()


async def test_who_owes_nothing_any_more_may_be_silent() -> None:
    hung = asyncio.Event()
    thread = Watch(hung.set)
    thread.owes("answer")
    thread.owes("other")
    await asyncio.sleep(0)
    thread.settled("answer")
    thread.settled("other")
    for _ in range(5 * LOOKS):
        await asyncio.sleep(0)
    assert not hung.is_set()
    thread.owes("again")
    await hung.wait()


def test_one_that_never_owed_anything_ends_too() -> None:
    Watch(lambda: pytest.fail("it owes nothing")).end()


async def test_nothing_is_heard_after_the_end() -> None:
    hung = asyncio.Event()
    thread = Watch(hung.set)
    thread.owes("answer")
    await asyncio.sleep(0)
    thread.end()
    for _ in range(5 * LOOKS):
        await asyncio.sleep(0)
    assert not hung.is_set()
