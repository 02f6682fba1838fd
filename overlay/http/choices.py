"""Several answers to one prompt (``n``), asked for side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from overlay.http.backend import AnswerEvent, Ask, Backend

#: Seeds are folded to less than this: OpenAI's have 64 bits, the engine's 32.
SEEDS: Final = 2**32 - 1


async def ask_all(
    backend: Backend, ask: Ask, count: int
) -> AsyncGenerator[tuple[int, AnswerEvent], None]:
    """Each answer's events with its number, as they come.

    Answer ``i`` has the seed of the request plus ``i``, and all but the first have ids of their
    own. The engine computes a prompt that several requests share once. Closing the iterator closes
    all answers; so does an error in one, which is raised.
    """
    if count == 1:
        async with aclosing(backend.ask(ask)) as events:
            async for event in events:
                yield 0, event
        return
    heard: asyncio.Queue[tuple[int, AnswerEvent | Exception | None]] = asyncio.Queue()

    async def listen(index: int) -> None:
        try:
            async with aclosing(backend.ask(_numbered(ask, index))) as events:
                async for event in events:
                    heard.put_nowait((index, event))
        except Exception as error:
            heard.put_nowait((index, error))
        else:
            heard.put_nowait((index, None))

    listening = [asyncio.create_task(listen(index)) for index in range(count)]
    try:
        open_answers = count
        while open_answers:
            index, said = await heard.get()
            if isinstance(said, Exception):
                raise said
            if said is None:
                open_answers -= 1
            else:
                yield index, said
    finally:
        for task in listening:
            task.cancel()
        await asyncio.wait(listening)


def _numbered(ask: Ask, index: int) -> Ask:
    if index:
        ask = replace(ask, request_id=None)
    seed = ask.sampling.seed
    if seed is None:
        return ask
    return replace(ask, sampling=replace(ask.sampling, seed=(seed + index) % SEEDS))
