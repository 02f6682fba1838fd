"""The latest change of each key of one origin, in the order of their versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import starmap
from typing import Final

import msgpack

from overlay.wire.anti_entropy import Change

#: Bytes of a Change without key and value, at most, in msgpack: an array's head takes 1, a
#: version 9, and the heads of key and value 5 each.
CHANGE_OVERHEAD_BYTES: Final = 1 + 5 + 9 + 5
DIGEST_BYTES: Final = 8


def change_bytes(change: Change) -> int:
    """The size of a change on the wire, at most."""
    key, _, value = change
    return _bytes(key, value)


def _bytes(key: bytes, value: bytes | None) -> int:
    return CHANGE_OVERHEAD_BYTES + len(key) + (len(value) if value else 0)


class LatestChanges:
    """Changes are put in the order of their versions; a key's later change hides the earlier."""

    def __init__(self) -> None:
        # Both are ordered by version, as every change is appended: what somebody lacks is the tail.
        self._versions: dict[bytes, int] = {}
        # Only those that are not empty: nearly all records are blocks, whose values are.
        self._values: dict[bytes, bytes | None] = {}
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What all take on the wire, at most."""
        return self._size_bytes

    def __len__(self) -> int:
        return len(self._versions)

    def live(self) -> Mapping[bytes, bytes]:
        """A copy of the records that are not deleted."""
        values = dict.fromkeys(self._versions, b"") | self._values
        return {key: value for key, value in values.items() if value is not None}

    def digest(self) -> bytes:
        """Of all of them, tombstones too; whoever holds the same changes finds the same."""
        columns = [[*self._versions], [*self._versions.values()], [*self._values.items()]]
        packed = msgpack.packb(columns)
        return blake2b(packed, digest_size=DIGEST_BYTES, person=b"hearth contents").digest()

    def get(self, key: bytes) -> Change | None:
        version = self._versions.get(key)
        return None if version is None else self._change(key, version)

    def put(self, change: Change) -> None:
        """Add a change that is newer than all."""
        key, version, value = change
        self._drop(key)
        self._versions[key] = version
        if value != b"":
            self._values[key] = value
        self._size_bytes += _bytes(key, value)

    def clear(self) -> None:
        self._versions.clear()
        self._values.clear()
        self._size_bytes = 0

    def collect(self, version: int) -> None:
        """Forget the tombstones up to ``version``."""
        old = []
        for key, value in self._values.items():
            if self._versions[key] > version:
                break
            if value is None:
                old.append(key)
        for key in old:
            self._drop(key)

    def after(self, version: int) -> tuple[Iterator[Change], int]:
        """The changes after ``version``, oldest first, and their size on the wire, at most.

        They are made on the way: take them before the next change.
        """
        if version == 0:
            return starmap(self._change, self._versions.items()), self._size_bytes
        tail = []
        size_bytes = 0
        for key, changed in reversed(self._versions.items()):
            if changed <= version:
                break
            value = self._values.get(key, b"")
            tail.append(Change(key, changed, value))
            size_bytes += _bytes(key, value)
        return reversed(tail), size_bytes

    def _change(self, key: bytes, version: int) -> Change:
        return Change(key, version, self._values.get(key, b""))

    def _drop(self, key: bytes) -> None:
        if self._versions.pop(key, None) is not None:
            self._size_bytes -= _bytes(key, self._values.pop(key, b""))
