"""Prompts on their way to the engines that tokenize them.

An engine takes long ones in order, a mebibyte in half a second or more. A member may bring such
prompts faster, and so may each of a crowd that it let in. So of all guests' only one is with an
engine at any time; the next is of whoever had least tokenized of late, and what was taken back
waits no longer. This node's own clients do not stand in that queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from models.engine import Client, Engine, Tokens, texts_of
from models.fairness import VirtualCounters
from overlay.errors import EngineFailed, HearthError
from overlay.forwarding.effects import Tokenize

log = logging.getLogger(__name__)


class Tokenizing:
    """``engine_of`` a model, if it is served here; ``told`` hears what became of each prompt."""

    def __init__(
        self,
        engine_of: Callable[[str], Engine | None],
        told: Callable[[bytes, Tokens | HearthError], None],
    ) -> None:
        self._engine_of = engine_of
        self._told = told
        #: Of each model, the guests whose prompts are not tokenized yet.
        self._guests: dict[str, _Guests] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, wanted: Tokenize) -> None:
        """It is tokenized in its turn."""
        if not wanted.client:
            self._start(wanted)
            return
        guests = self._guests.setdefault(wanted.model, _Guests())
        guests.wait(wanted)
        self._next(guests)

    def cancel(self, model: str, request_id: bytes) -> None:
        """Nobody wants it any more. Once it is with an engine, that goes on all the same."""
        if (guests := self._guests.get(model)) is not None:
            guests.leave(request_id)

    def close(self) -> None:
        """Nothing more is told."""
        self._guests.clear()
        for task in self._tasks:
            task.cancel()

    def _next(self, guests: _Guests) -> None:
        if (wanted := guests.next()) is not None:
            self._start(wanted)

    def _start(self, wanted: Tokenize) -> None:
        task = asyncio.create_task(self._tokenize(wanted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tokenize(self, wanted: Tokenize) -> None:
        result: Tokens | HearthError
        try:
            engine = self._engine_of(wanted.model)
            if engine is None:
                raise EngineFailed("the model is gone")
            result = await engine.tokenize(wanted.prompt, guests=bool(wanted.client))
        except HearthError as error:
            result = error
        except Exception as error:
            # Our bug: the request must end all the same.
            log.exception("a prompt could not be tokenized")
            result = EngineFailed(f"The prompt could not be tokenized: {error!r}")
        finally:
            if wanted.client and (guests := self._guests.get(wanted.model)) is not None:
                guests.done(wanted)
                self._next(guests)
        self._told(wanted.request_id, result)


class _Guests:
    """Whose prompts wait for the engine of one model. One at a time is not there any more."""

    def __init__(self) -> None:
        #: By client and request, in order.
        self._waiting: dict[Client, dict[bytes, Tokenize]] = {}
        self._counters = VirtualCounters()
        self._under_way = False

    def wait(self, wanted: Tokenize) -> None:
        self._counters.arrive(wanted.client)
        self._waiting.setdefault(wanted.client, {})[wanted.request_id] = wanted

    def leave(self, request_id: bytes) -> None:
        """Idempotent, and of no effect on what does not wait any more."""
        for client, waiting in self._waiting.items():
            if waiting.pop(request_id, None) is not None:
                self._counters.leave(client)
                if not waiting:
                    del self._waiting[client]
                return

    def next(self) -> Tokenize | None:
        """What is to be tokenized now, if anything; then it is `done`."""
        if self._under_way or not self._waiting:
            return None
        client = min(self._waiting, key=self._counters.served)
        waiting = self._waiting[client]
        wanted = waiting.pop(next(iter(waiting)))
        if not waiting:
            del self._waiting[client]
        self._counters.charge(client, prompt=sum(map(len, texts_of(wanted.prompt))))
        self._under_way = True
        return wanted

    def done(self, wanted: Tokenize) -> None:
        self._under_way = False
        self._counters.leave(wanted.client)
