"""Prompts on their way to the engines that tokenize them.

An engine takes them in order, a mebibyte in half a second or more. A member may bring such prompts
faster, and take each back at once; so of each member's only one is with an engine at any time, and
what it took back waits no longer. This node's own clients do not stand in these queues.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from models.engine import Engine, Tokens
from overlay.errors import EngineFailed, HearthError
from overlay.forwarding.effects import Tokenize
from overlay.identity.peer_id import PeerId

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
        #: What waits, by request, of the members of which something is with an engine.
        self._waiting: dict[PeerId, dict[bytes, Tokenize]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, wanted: Tokenize) -> None:
        """It is tokenized in its turn."""
        guest = wanted.guest
        if guest is None:
            self._start(wanted)
        elif guest in self._waiting:
            self._waiting[guest][wanted.request_id] = wanted
        else:
            self._waiting[guest] = {}
            self._start(wanted)

    def cancel(self, request_id: bytes) -> None:
        """Nobody wants it any more. Once it is with an engine, that goes on all the same."""
        for waiting in self._waiting.values():
            waiting.pop(request_id, None)

    def close(self) -> None:
        """Nothing more is told."""
        for waiting in self._waiting.values():
            waiting.clear()
        for task in self._tasks:
            task.cancel()

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
            result = await engine.tokenize(wanted.prompt)
        except HearthError as error:
            result = error
        except Exception as error:
            # Our bug: the request must end all the same.
            log.exception("a prompt could not be tokenized")
            result = EngineFailed(f"The prompt could not be tokenized: {error!r}")
        finally:
            if wanted.guest is not None:
                self._next(wanted.guest)
        self._told(wanted.request_id, result)

    def _next(self, guest: PeerId) -> None:
        waiting = self._waiting[guest]
        if waiting:
            self._start(waiting.pop(next(iter(waiting))))
        else:
            del self._waiting[guest]
