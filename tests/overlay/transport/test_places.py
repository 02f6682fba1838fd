"""Whose turn it is."""

from __future__ import annotations

import asyncio

from overlay.transport.places import Places
from tests.overlay.transport.nodes import PATIENCE_S


async def test_who_fails_and_fails_comes_last() -> None:
    places = Places(1)
    begun: list[int] = []

    async def take(failures: int) -> None:
        async with places.take(failures):
            begun.append(failures)
            await asyncio.sleep(0)

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        tasks = [group.create_task(take(failures)) for failures in (9, 8, 8, 0, 7, 1)]
        await asyncio.sleep(0)
        # Who gives up keeps no place, whether it had one or was waiting.
        tasks[0].cancel()
        tasks[4].cancel()
    assert begun == [9, 0, 1, 8, 8]


async def test_who_was_away_for_long_waits_no_longer_than_a_crowd_that_came_since() -> None:
    places = Places(1)
    begun: list[int] = []

    async def take(failures: int) -> None:
        async with places.take(failures):
            begun.append(failures)

    async with asyncio.timeout(PATIENCE_S), places.take(0):
        waiting = [asyncio.create_task(take(failures)) for failures in (1000, 8, 9, 7)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert begun == [7, 1000, 8, 9]


async def test_who_gives_up_as_its_turn_comes_leaves_it_to_the_next() -> None:
    places = Places(1)

    async def take() -> None:
        async with places.take(0):
            pass

    async with asyncio.timeout(PATIENCE_S):
        async with places.take(0):
            first, second = asyncio.create_task(take()), asyncio.create_task(take())
            await asyncio.sleep(0)
        first.cancel()
        await second
    assert first.cancelled()
