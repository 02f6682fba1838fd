"""So many places, for which those wait longest who make the least of them."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from overlay.limits import ADDRESSES_MAX

#: Who has failed so often is like all who have failed more often: a friend that was away for a day
#: would else have to wait until a crowd that came meanwhile has failed as often.
_FAILURES_MAX: Final = ADDRESSES_MAX


class Places:
    """Whoever has failed least often in a row comes next, and of these, who has waited longest.

    Members can make up any number of others, at addresses that take long to fail. Once all of these
    were tried, they keep nobody else waiting for longer than each other.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._numbers = itertools.count()
        #: A heap; some may have given up.
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def take(self, failures: int) -> AsyncIterator[None]:
        """``failures``: in a row, of whoever takes it."""
        comes = asyncio.get_running_loop().create_future()
        rank = min(failures, _FAILURES_MAX)
        heapq.heappush(self._waiting, (rank, next(self._numbers), comes))
        self._fill()
        try:
            await comes
            yield
        finally:
            if not comes.cancelled():
                self._free += 1
            self._fill()

    def _fill(self) -> None:
        while self._free and self._waiting:
            *_, comes = heapq.heappop(self._waiting)
            if not comes.cancelled():
                self._free -= 1
                comes.set_result(None)
