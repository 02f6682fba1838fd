"""Notices that a thread of an engine's process hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Final

#: A thread that owes something and says nothing at all for so long hangs: each step of its work
#: takes a second or so. Looked at in parts, for if this process was stopped, what was said
#: meanwhile is not read yet.
LOOK_S: Final = 10.0
LOOKS: Final = 12


class Watch:
    """Of one thread; ``hangs`` is called once. Belongs to an asyncio loop."""

    def __init__(self, hangs: Callable[[], None]) -> None:
        self._hangs = hangs
        self._owed: set[Hashable] = set()
        self._words = 0
        self._looking: asyncio.Task[None] | None = None

    def owes(self, what: Hashable) -> None:
        """It was told to do this, and will say so when it is done."""
        self._owed.add(what)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def settled(self, what: Hashable) -> None:
        """It is done, or nobody waits for it."""
        self._owed.discard(what)

    def spoke(self) -> None:
        """It has said something."""
        self._words += 1

    def end(self) -> None:
        """Nothing is to be heard any more; idempotent."""
        self._owed.clear()
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        silent, words = 0, self._words
        while self._owed and silent < LOOKS:
            await asyncio.sleep(LOOK_S)
            silent = silent + 1 if words == self._words else 0
            words = self._words
        if self._owed:
            self._hangs()
