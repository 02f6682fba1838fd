"""What has arrived on a line and waits until its peer's budget allows to read it."""

from __future__ import annotations

import asyncio
from collections import deque


class Inbox:
    """A queue that knows its size, and tells when it is empty again."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._emptied: asyncio.Future[None] | None = None
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, data: bytes) -> None:
        self._waiting.append(data)
        self.bytes += len(data)

    def take(self) -> bytes:
        """The oldest message."""
        data = self._waiting.popleft()
        self.bytes -= len(data)
        self._tell()
        return data

    def clear(self) -> None:
        """Nobody will read what is left."""
        self._waiting.clear()
        self.bytes = 0
        self._tell()

    def emptied(self) -> asyncio.Future[None]:
        """Done once nothing waits any more; call while something does."""
        if self._emptied is None:
            self._emptied = asyncio.get_running_loop().create_future()
        return self._emptied

    def _tell(self) -> None:
        if not self._waiting and self._emptied is not None:
            self._emptied.set_result(None)
            self._emptied = None
