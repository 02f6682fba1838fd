"""Sequences of named tuples, as digests and deltas are: long, so whole columns are checked in C.

msgpack itself reads and packs the rows, and nothing is done in Python for each value of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, islice
from types import NoneType
from typing import Any, Final, Protocol, get_args, get_origin, get_type_hints

from overlay.errors import LimitExceeded, Malformed
from overlay.identity.peer_id import PeerId
from overlay.limits import PROMPT_TOKENS_MAX
from overlay.wire.anti_entropy import COUNTER_MAX, Counter

#: No sequence is longer: the longest is a prompt.
SEQUENCE_ITEMS_MAX: Final = PROMPT_TOKENS_MAX


class Column(Protocol):
    """Values of one kind."""

    def allows(self, values: Sequence[Any]) -> bool:
        """Whether these may be packed."""

    def read(self, values: Sequence[Any]) -> Iterable[Any]:
        """What msgpack read, as the column's type. Raises Malformed or LimitExceeded."""


class _Scalars:
    """Values of exactly these types."""

    def __init__(self, *kinds: type) -> None:
        self._kinds = frozenset(kinds)

    def allows(self, values: Sequence[Any]) -> bool:
        return self._kinds.issuperset(map(type, values))

    def read(self, values: Sequence[Any]) -> Iterable[Any]:
        if not self.allows(values):
            raise Malformed("a value of another type was expected")
        return values


class _Counters(_Scalars):
    def __init__(self) -> None:
        super().__init__(int)

    def allows(self, values: Sequence[Any]) -> bool:
        return super().allows(values) and min(values) >= 0 and max(values) < COUNTER_MAX


class _PeerIds(_Scalars):
    def __init__(self) -> None:
        super().__init__(PeerId)

    def read(self, values: Sequence[Any]) -> Iterable[Any]:
        return map(PeerId, _BYTES.read(values))


class Table:
    """Rows of one kind, a named tuple."""

    def __init__(self, kind: Any, columns: Sequence[Column]) -> None:
        self._rows = _Scalars(kind)
        self._columns = columns
        self._make = partial(tuple.__new__, kind)

    @classmethod
    def of(cls, kind: Any) -> Table | None:
        """None if it is no named tuple, or holds what no column can be made of."""
        if not hasattr(kind, "_fields") or kind._field_defaults:
            return None
        hints = get_type_hints(kind, include_extras=True)
        columns = [_column(hints[name]) for name in kind._fields]
        return None if None in columns else cls(kind, [c for c in columns if c is not None])

    def allows(self, rows: Sequence[Any]) -> bool:
        """Whether these may be packed."""
        return self._rows.allows(rows) and all(
            column.allows(values)
            for column, values in zip(self._columns, zip(*rows, strict=True), strict=False)
        )

    def read(self, rows: Any) -> tuple[Any, ...]:
        """What msgpack read, as rows; fields at their ends that are not known yet are left out.

        Raises Malformed or LimitExceeded.
        """
        _ROWS.read((rows, *rows) if type(rows) is tuple else (rows,))
        if len(rows) > SEQUENCE_ITEMS_MAX:
            raise LimitExceeded(f"an array of {len(rows)} items; {SEQUENCE_ITEMS_MAX} are allowed")
        if not rows:
            return ()
        if min(map(len, rows)) < len(self._columns):
            raise Malformed(f"a row of fewer than {len(self._columns)} fields")
        columns = zip(self._columns, zip(*rows, strict=False), strict=False)
        fields = [column.read(values) for column, values in columns]
        return tuple(map(self._make, zip(*fields, strict=True)))


class _Sequences:
    """Each value is a sequence. The ``items`` of all are checked together."""

    def __init__(self, items: Column) -> None:
        self._items = items

    def allows(self, values: Sequence[Any]) -> bool:
        return _ROWS.allows(values) and self._items.allows([*chain.from_iterable(values)])

    def read(self, values: Sequence[Any]) -> Iterable[Any]:
        items = iter(self._items.read(tuple(chain.from_iterable(_ROWS.read(values)))))
        return [tuple(islice(items, len(each))) for each in values]


_ROWS: Final = _Scalars(tuple)
INTS: Final = _Scalars(int)
_BYTES: Final = _Scalars(bytes)
_COLUMNS: Final[dict[Any, Column]] = {
    bool: _Scalars(bool),
    int: INTS,
    str: _Scalars(str),
    bytes: _BYTES,
    bytes | None: _Scalars(bytes, NoneType),
    tuple[int, ...]: _Sequences(INTS),
    Counter: _Counters(),
    PeerId: _PeerIds(),
}


def _column(annotation: Any) -> Column | None:
    if annotation in _COLUMNS:
        return _COLUMNS[annotation]
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (Ellipsis,):
        table = Table.of(get_args(annotation)[0])
        return None if table is None else _Sequences(table)
    return None
