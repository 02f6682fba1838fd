"""The records that a node gossips about itself: their keys, and their values as msgpack.

A value is an array in the order of the fields. Readers ignore fields beyond those they know, so
that newer nodes may append some. `unpack` trusts nothing; `pack` clips texts, lists and rates to
the limits, so that a model file with odd metadata never makes a node's card unreadable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import msgpack

from overlay.errors import Malformed
from overlay.limits import (
    ADDRESS_CHARS_MAX,
    ADDRESSES_MAX,
    ALIASES_MAX,
    CERTIFICATE_CHAIN_MAX,
    DESCRIPTION_CHARS_MAX,
    MODELS_PER_CARD_MAX,
    NAME_CHARS_MAX,
    RECORD_VALUE_BYTES_MAX,
)
from overlay.printable import is_printable

CARD: Final = b"card"
LOAD: Final = b"load"
#: The origin's chain of certificates, own first; the founder has none.
CHAIN: Final = b"chain"
_BLOCK: Final = b"b"
_REVOCATION: Final = b"r"

#: The value of a block's record: its key says it all.
BLOCK_VALUE: Final = b""

COUNT_MAX: Final = 1 << 40
RATE_MAX: Final = 1e9
#: If it is measured. Less would mean weeks for a token, and costs that are not finite any more:
#: with zero times infinity, nothing can be compared.
RATE_MIN: Final = 1e-6
_MODEL_KEY_BYTES = 16
_PROBE_BYTES = 16


def block_key(block: int) -> bytes:
    """The key of the record which says that the node holds ``block`` (a hash, unsigned 64 bit)."""
    return _BLOCK + block.to_bytes(8, "big")


def block_of(key: bytes) -> int | None:
    """The block hash in ``key``, or None if it is the key of another kind of record."""
    if len(key) == 9 and key.startswith(_BLOCK):
        return int.from_bytes(key[1:], "big")
    return None


def revocation_key(record: bytes) -> bytes:
    """The key under which a revocation's record is told; see `overlay.identity.revocations`."""
    return _REVOCATION + blake2b(record, digest_size=16, person=b"hearth revoked").digest()


def is_revocation(key: bytes) -> bool:
    """Whether ``key`` is that of a revocation."""
    return len(key) == 17 and key.startswith(_REVOCATION)


def pack_chain(certificates: Sequence[bytes]) -> bytes:
    """The value of the record of a chain."""
    packed: bytes = msgpack.packb(list(certificates))
    return packed


def unpack_chain(value: bytes) -> tuple[bytes, ...]:
    """Raises Malformed."""
    chain = _fields(value, 0)
    if len(chain) > CERTIFICATE_CHAIN_MAX or any(type(each) is not bytes for each in chain):
        raise Malformed("a record is no chain of certificates")
    return tuple(chain)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model that a node serves. Rates in tokens per second, 0 while not measured."""

    name: str
    #: 16 bytes; see `models.engine.ModelInfo`.
    key: bytes
    #: In lower case, for it is no matter how a client writes them.
    aliases: tuple[str, ...] = ()
    description: str = ""
    context_length: int = 0
    prefill_rate: float = 0.0
    decode_rate: float = 0.0
    #: 16 bytes, or none from an older node; see `models.engine.ModelInfo`.
    probe: bytes = b""


@dataclass(frozen=True, slots=True)
class Card:
    """Who a node is, where it listens, and what it serves. Changes seldom."""

    name: str
    addresses: tuple[str, ...] = ()
    models: tuple[ModelCard, ...] = ()
    #: Its owner lends it to nobody for now, so it tells of no models.
    paused: bool = False

    def pack(self) -> bytes:
        """The record's value; at most RECORD_VALUE_BYTES_MAX bytes, and readable by `unpack`."""
        models = [
            [
                _clipped(m.name, NAME_CHARS_MAX),
                m.key,
                [_clipped(alias, NAME_CHARS_MAX) for alias in m.aliases[:ALIASES_MAX]],
                _clipped(m.description, DESCRIPTION_CHARS_MAX),
                m.context_length,
                _clipped_rate(m.prefill_rate),
                _clipped_rate(m.decode_rate),
                m.probe,
            ]
            for m in self.models[:MODELS_PER_CARD_MAX]
        ]
        addresses = [a for a in self.addresses if len(a) <= ADDRESS_CHARS_MAX][:ADDRESSES_MAX]
        name = _clipped(self.name, NAME_CHARS_MAX)
        while True:
            packed: bytes = msgpack.packb([name, addresses, models, self.paused])
            if len(packed) <= RECORD_VALUE_BYTES_MAX or not models:
                return packed
            models.pop()

    @classmethod
    def unpack(cls, value: bytes) -> Card:
        """Raises Malformed."""
        fields = _fields(value, 3)
        name, addresses, models = fields[:3]
        paused = fields[3] if len(fields) > 3 else False
        if not isinstance(paused, bool):
            raise Malformed("a card says yes or no to being paused")
        return cls(
            name=_text(name, NAME_CHARS_MAX),
            addresses=tuple(_text(a, ADDRESS_CHARS_MAX) for a in _items(addresses, ADDRESSES_MAX)),
            models=tuple(_model(m) for m in _items(models, MODELS_PER_CARD_MAX)),
            paused=paused,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a node is. Changes every round."""

    queued: int = 0
    running: int = 0
    #: Prompt tokens not computed yet, of queued and running requests.
    pending_prefill_tokens: int = 0
    cells_used: int = 0
    cells_total: int = 0
    #: Of 1,000 blocks that it computed lately, those that some node had held and none had kept.
    lost_permille: int = 0
    #: Requests of other members that it would take on top now; None: no bound, or an older node.
    guest_places: int | None = None

    def pack(self) -> bytes:
        """The record's value."""
        packed: bytes = msgpack.packb(
            [
                self.queued,
                self.running,
                self.pending_prefill_tokens,
                self.cells_used,
                self.cells_total,
                self.lost_permille,
                self.guest_places,
            ]
        )
        return packed

    @classmethod
    def unpack(cls, value: bytes) -> Load:
        """Raises Malformed."""
        fields = _fields(value, 5)
        places = fields[6] if len(fields) > 6 else None
        load = cls(
            *(_count(field) for field in fields[:6]),
            **({} if places is None else {"guest_places": _count(places)}),
        )
        if load.lost_permille > 1000:
            raise Malformed("more blocks were lost than computed")
        return load


def _model(packed: object) -> ModelCard:
    fields = _items(packed, 64)
    if len(fields) < 7:
        raise Malformed("a model in the card lacks fields")
    name, key, aliases, description, context_length, prefill_rate, decode_rate = fields[:7]
    if not isinstance(key, bytes) or len(key) != _MODEL_KEY_BYTES:
        raise Malformed("a model key is not 16 bytes")
    probe = fields[7] if len(fields) > 7 else b""
    if not isinstance(probe, bytes) or len(probe) not in (0, _PROBE_BYTES):
        raise Malformed("a digest of probes is not 16 bytes")
    return ModelCard(
        name=_text(name, NAME_CHARS_MAX),
        key=key,
        aliases=tuple(
            _text(alias, NAME_CHARS_MAX).lower() for alias in _items(aliases, ALIASES_MAX)
        ),
        description=_text(description, DESCRIPTION_CHARS_MAX),
        context_length=_count(context_length),
        prefill_rate=_rate(prefill_rate),
        decode_rate=_rate(decode_rate),
        probe=probe,
    )


def _fields(value: bytes, count: int) -> list[Any]:
    try:
        fields = msgpack.unpackb(value, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise Malformed(f"a record is no msgpack: {error}") from None
    fields = _items(fields, 64)
    if len(fields) < count:
        raise Malformed(f"a record has {len(fields)} fields, not {count}")
    return fields


def _items(value: object, length_max: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > length_max:
        raise Malformed(f"a list of at most {length_max} was expected in a record")
    return value


def _text(value: object, chars_max: int) -> str:
    # Unprintable characters could drive the terminals of everybody who lists this node.
    if not isinstance(value, str) or len(value) > chars_max or not is_printable(value):
        raise Malformed(f"a printable text of at most {chars_max} characters was expected")
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        raise Malformed("a count in a record is out of range")
    return value


def _rate(value: object) -> float:
    # As in messages, a whole number may come as an integer: some packers make one of 100.0.
    if not isinstance(value, float | int) or isinstance(value, bool):
        raise Malformed("a rate in a record is no number")
    if not (value == 0 or RATE_MIN <= value <= RATE_MAX):
        raise Malformed("a rate in a record is out of range")
    return float(value)


def _clipped(text: str, chars_max: int) -> str:
    return "".join(c if is_printable(c) else " " for c in text[:chars_max])


def _clipped_rate(rate: float) -> float:
    return min(RATE_MAX, max(RATE_MIN, float(rate))) if rate > 0 else 0.0
