"""The latest change of each key of one origin, in the order of their versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from overlay.wire.messages import Change

#: Bytes of a Change without key and value, at most, in msgpack: an array's head takes 1, a
#: version 9, and the heads of key and value 5 each.
CHANGE_OVERHEAD_BYTES: Final = 1 + 5 + 9 + 5


def change_bytes(change: Change) -> int:
    """The size of a change on the wire, at most."""
    key, _, value = change
    return CHANGE_OVERHEAD_BYTES + len(key) + (len(value) if value else 0)


class LatestChanges:
    """Changes are put in the order of their versions; a key's later change hides the earlier."""

    def __init__(self) -> None:
        # Ordered by version, as every change is appended: what somebody lacks is the tail.
        self._by_key: dict[bytes, Change] = {}
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def live(self) -> Mapping[bytes, bytes]:
        """A copy of the records that are not deleted."""
        return {key: c.value for key, c in self._by_key.items() if c.value is not None}

    def get(self, key: bytes) -> Change | None:
        return self._by_key.get(key)

    def put(self, change: Change) -> None:
        """Add a change that is newer than all."""
        hidden = self._by_key.pop(change.key, None)
        if hidden is not None:
            self._size_bytes -= change_bytes(hidden)
        self._by_key[change.key] = change
        self._size_bytes += change_bytes(change)

    def clear(self) -> None:
        self._by_key.clear()
        self._size_bytes = 0

    def collect(self, version: int) -> None:
        """Forget the tombstones up to ``version``."""
        old = []
        for change in self._by_key.values():
            if change.version > version:
                break
            if change.value is None:
                old.append(change)
        for change in old:
            del self._by_key[change.key]
            self._size_bytes -= change_bytes(change)

    def after(self, version: int) -> tuple[Collection[Change], int]:
        """The changes after ``version``, oldest first, and their size on the wire, at most.

        They are a view: use them before the next change.
        """
        if version == 0:
            return self._by_key.values(), self._size_bytes
        tail = []
        size_bytes = 0
        for change in reversed(self._by_key.values()):
            if change.version <= version:
                break
            tail.append(change)
            size_bytes += change_bytes(change)
        tail.reverse()
        return tail, size_bytes
