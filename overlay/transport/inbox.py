"""What has arrived on a line and waits until its peer's budget allows to read it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Inbox:
    """A queue that knows its size, and tells when it is empty again."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self.bytes = 0
        #: Called when nothing waits any more.
        self.on_empty: Callable[[], None] = lambda: None

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

    def _tell(self) -> None:
        if not self._waiting:
            self.on_empty()
