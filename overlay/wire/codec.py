"""Messages to bytes and back: one msgpack array ``[kind, field, field, …]`` per message.

The classes of `overlay.wire.messages` say everything: their annotations are resolved once,
here, into small packers and readers. The reader is driven by the expected types, never by the
bytes: msgpack's own decoder sees only scalars, and tables that are there to their last byte, so
neither nesting nor a declared length makes it reserve memory that the message's size does not
justify.

Compatibility within a protocol version: a field may be added at the end of a message if it has a
default. Older nodes skip trailing fields that they do not know, and fill in defaults for those
that an older sender leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from itertools import islice
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgpack

from overlay.errors import LimitExceeded, LocalProtocolError, Malformed
from overlay.identity.peer_id import PeerId
from overlay.limits import MESSAGE_BYTES_MAX
from overlay.wire.anti_entropy import COUNTER_MAX, Counter
from overlay.wire.messages import Message
from overlay.wire.tables import INTS, SEQUENCE_ITEMS_MAX, Column, Table

_Pack = Callable[[Any], Any]
_Read = Callable[["_Source"], Any]

_NIL = 0xC0
_PACKER: Final = msgpack.Packer()
_ARRAY_HEADS: Final = frozenset({*range(0x90, 0xA0), 0xDC, 0xDD})


def encode(message: Message) -> bytes:
    """Pack a message.

    Raises LimitExceeded if it is longer than MESSAGE_BYTES_MAX, and LocalProtocolError if a
    field holds what its annotation does not allow.
    """
    kind, pack = _PACKERS[type(message)]
    try:
        data: bytes = _PACKER.pack([kind, *pack(message)])
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise LocalProtocolError(f"cannot pack {type(message).__name__}: {error}") from error
    if len(data) > MESSAGE_BYTES_MAX:
        raise LimitExceeded(
            f"a {type(message).__name__} of {len(data)} bytes; {MESSAGE_BYTES_MAX} may be sent"
        )
    return data


def decode(data: bytes) -> Message:
    """Read one message, and nothing but one. Raises Malformed or LimitExceeded."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise LimitExceeded(f"a message of {len(data)} bytes; {MESSAGE_BYTES_MAX} are allowed")
    source = _Source(data)
    try:
        count = source.array()
        kind = _read_int(source) if count else None
        reader = _READERS.get(kind)
        if reader is None:
            raise Malformed(f"unknown kind of message: {kind}")
        message: Message = reader(source, count - 1)
        if source.unpacker.tell() != len(data):
            raise Malformed("bytes after the message")
    except (ValueError, msgpack.UnpackException) as error:
        raise Malformed(f"not a message: {error or type(error).__name__}") from None
    return message


class _Source:
    """The bytes of one message, read front to back."""

    __slots__ = ("data", "scalar", "unpacker")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.unpacker = msgpack.Unpacker(
            use_list=False,
            max_buffer_size=MESSAGE_BYTES_MAX,
            max_str_len=MESSAGE_BYTES_MAX,
            max_bin_len=MESSAGE_BYTES_MAX,
            max_array_len=0,
            max_map_len=0,
            max_ext_len=0,
        )
        self.unpacker.feed(data)
        #: Reads one value that is neither array, map nor extension.
        self.scalar: Callable[[], Any] = self.unpacker.unpack

    def head(self) -> int:
        """The next value's first byte, which tells its type; -1 at the end."""
        at = self.unpacker.tell()
        return self.data[at] if at < len(self.data) else -1

    def array(self) -> int:
        """Read an array's head; its items follow."""
        count: int = self.unpacker.read_array_header()
        if count > len(self.data) - self.unpacker.tell():
            raise Malformed(f"an array of {count} items in a message of {len(self.data)} bytes")
        if count > SEQUENCE_ITEMS_MAX:
            raise LimitExceeded(f"an array of {count} items; {SEQUENCE_ITEMS_MAX} are allowed")
        return count

    def table(self) -> Any:
        """The next value, fast: rows, if all is well. No length in it is a lie, or it could not be
        skipped."""
        begin = self.unpacker.tell()
        self.unpacker.skip()
        return msgpack.unpackb(self.data[begin : self.unpacker.tell()], use_list=False)

    def items(self, count: int) -> tuple[Any, ...]:
        """The next scalars, fast."""
        values = tuple(islice(self.unpacker, count))
        if len(values) != count:
            raise Malformed("the message ends in the middle of an array")
        return values


# --- Scalars ----------------------------------------------------------------------------------


def _scalar_reader(kind: type) -> _Read:
    """A bool is no int here: types match exactly. msgpack keeps integers within 64 bit."""

    def read(source: _Source) -> Any:
        value = source.scalar()
        if type(value) is not kind:
            raise Malformed(f"expected {kind.__name__}, not {type(value).__name__}")
        return value

    return read


def _scalar_packer(kind: type) -> _Pack:
    def pack(value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{value!r:.60} is no {kind.__name__}")
        return value

    return pack


_read_int = _scalar_reader(int)


def _read_counter(source: _Source) -> int:
    value = source.scalar()
    if type(value) is not int or not 0 <= value < COUNTER_MAX:
        raise Malformed(f"expected a number from 0 to 2^62, not {value!r:.60}")
    return value


def _pack_counter(value: int) -> int:
    if type(value) is not int or not 0 <= value < COUNTER_MAX:
        raise TypeError(f"{value!r:.60} is no counter")
    return value


def _read_float(source: _Source) -> float:
    value = source.scalar()
    if type(value) is not float and type(value) is not int:
        raise Malformed(f"expected a number, not {type(value).__name__}")
    if not math.isfinite(value):
        raise Malformed(f"expected a finite number, not {value}")
    return float(value)


def _pack_float(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return float(value)


def _read_peer_id(source: _Source) -> PeerId:
    value = source.scalar()
    if type(value) is not bytes:
        raise Malformed(f"expected a PeerId, not {type(value).__name__}")
    return PeerId(value)


_SCALARS: Final[dict[Any, tuple[_Pack, _Read]]] = {
    **{kind: (_scalar_packer(kind), _scalar_reader(kind)) for kind in (bool, int, bytes, str)},
    Counter: (_pack_counter, _read_counter),
    float: (_pack_float, _read_float),
    PeerId: (_scalar_packer(PeerId), _read_peer_id),
}

# --- Composites -------------------------------------------------------------------------------


def _converters(annotation: Any) -> tuple[_Pack, _Read]:
    """The packer and the reader for one annotation."""
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if isinstance(annotation, UnionType):
        return _union(get_args(annotation))
    if get_origin(annotation) is tuple:
        *items, last = get_args(annotation)
        return _sequence(items[0]) if last is Ellipsis else _pair((*items, last))
    return _record_converters(annotation)


def _union(options: tuple[Any, ...]) -> tuple[_Pack, _Read]:
    """``X | None``, and of a sequence and a scalar (a Prompt); the first byte tells which."""
    optional = NoneType in options
    arrays = [option for option in options if get_origin(option) is tuple]
    others = [option for option in options if option is not NoneType and option not in arrays]
    assert len(arrays) <= 1, f"ambiguous on the wire: {options}"
    assert len(others) <= 1, f"ambiguous on the wire: {options}"
    pack_array, read_array = _converters((arrays or others)[0])
    pack_other, read_other = _converters((others or arrays)[0])

    def pack(value: Any) -> Any:
        if value is None and optional:
            return None
        return (pack_array if isinstance(value, tuple) else pack_other)(value)

    def read(source: _Source) -> Any:
        head = source.head()
        if head == _NIL and optional:
            return source.scalar()
        return (read_array if head in _ARRAY_HEADS else read_other)(source)

    return pack, read


def _sequence(item: Any) -> tuple[_Pack, _Read]:
    if (table := Table.of(item)) is not None:
        return _checked_as_a_whole(table, _Source.table)
    if item is int:
        return _checked_as_a_whole(INTS, lambda source: source.items(source.array()))
    pack_item, read_item = _converters(item)

    def pack(value: Any) -> list[Any]:
        return [pack_item(each) for each in value]

    def read(source: _Source) -> tuple[Any, ...]:
        return tuple([read_item(source) for _ in range(source.array())])

    return pack, read


def _checked_as_a_whole(column: Column, raw: _Read) -> tuple[_Pack, _Read]:
    """A sequence of values of a ``column``, of which ``raw`` reads what msgpack makes."""

    def pack(value: Any) -> Any:
        if not column.allows(value):
            raise TypeError("a sequence holds what it must not")
        return value

    return pack, lambda source: column.read(raw(source))


def _pair(items: tuple[Any, ...]) -> tuple[_Pack, _Read]:
    """A tuple of fixed length."""
    converters = [_converters(item) for item in items]
    readers = [read for _, read in converters]

    def pack(value: Any) -> list[Any]:
        return [pack(each) for (pack, _), each in zip(converters, value, strict=True)]

    def read(source: _Source) -> tuple[Any, ...]:
        if (count := source.array()) != len(readers):
            raise Malformed(f"expected {len(readers)} items, not {count}")
        return tuple([read(source) for read in readers])

    return pack, read


def _record_converters(kind: Any) -> tuple[_Pack, _Read]:
    """A dataclass or named tuple inside a message: an array of its fields."""
    pack_fields, read_fields = _record(kind)

    def pack(value: Any) -> list[Any]:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r:.60} is no {kind.__name__}")
        return pack_fields(value)

    def read(source: _Source) -> Any:
        return read_fields(source, source.array())

    return pack, read


def _record(kind: Any) -> tuple[Callable[[Any], list[Any]], Callable[[_Source, int], Any]]:
    """Packer and reader of a record's fields; the reader is told how many are there."""
    hints = get_type_hints(kind, include_extras=True)
    names, required = _fields(kind)
    converters = [_converters(hints[name]) for name in names]
    packers = [pack for pack, _ in converters]
    readers = [read for _, read in converters]
    # attrgetter of a single name gives the value, not a tuple, and of none there is no getter.
    get: Callable[[Any], Any] = (
        attrgetter(*names)
        if len(names) > 1
        else lambda value: tuple(getattr(value, name) for name in names)
    )

    def pack(value: Any) -> list[Any]:
        return [pack(each) for pack, each in zip(packers, get(value), strict=True)]

    def read(source: _Source, count: int) -> Any:
        if count < required:
            raise Malformed(f"{kind.__name__} with {count} of {required} fields")
        values = [read(source) for read in readers[:count]]
        for _ in range(count - len(readers)):
            source.unpacker.skip()
        return kind(*values)

    return pack, read


def _fields(kind: Any) -> tuple[list[str], int]:
    """The names of a record's fields, and how many of them, the first, have no default."""
    if issubclass(kind, tuple):
        return list(kind._fields), len(kind._fields) - len(kind._field_defaults)
    required = sum(
        field.default is MISSING and field.default_factory is MISSING for field in fields(kind)
    )
    return [field.name for field in fields(kind)], required


_PACKERS: Final[dict[type, tuple[int, Callable[[Any], list[Any]]]]] = {
    kind: (kind.KIND, _record(kind)[0]) for kind in get_args(Message)
}
_READERS: Final[dict[int | None, Callable[[_Source, int], Any]]] = {
    kind.KIND: _record(kind)[1] for kind in get_args(Message)
}
