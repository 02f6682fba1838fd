"""Messages that wait: to be read, or to be sent."""

from __future__ import annotations

from collections import deque


class MessageQueue:
    """First in, first out; it knows its size."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
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
        return data
