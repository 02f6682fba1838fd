"""Signed statements: ``signature (64 bytes) || body``, where the body is a msgpack array.

The signature is over a prefix that says what is stated, the ``domain``, and the body: none can pass
for one of another kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack

from overlay.errors import Malformed
from overlay.identity.keys import SIGNATURE_BYTES, NodeKey, verify
from overlay.identity.peer_id import PeerId


def sign(key: NodeKey, domain: bytes, fields: Iterable[bytes | int]) -> bytes:
    """The packed statement."""
    # msgpack knows PeerIds no more than other kinds of bytes.
    body: bytes = msgpack.packb([bytes(f) if isinstance(f, bytes) else f for f in fields])
    return key.sign(domain + body) + body


def check_signature(packed: bytes, domain: bytes, issuer: PeerId) -> None:
    """Raise BadSignature unless ``issuer`` signed the packed statement."""
    verify(issuer, domain + packed[SIGNATURE_BYTES:], packed[:SIGNATURE_BYTES])


def stated(packed: bytes, kinds: tuple[type, ...], what: str) -> list[Any]:
    """The fields of a packed statement, whoever signed it. Raises Malformed, as `fields_of`."""
    return fields_of(packed[SIGNATURE_BYTES:], kinds, what)


def fields_of(body: bytes, kinds: tuple[type, ...], what: str) -> list[Any]:
    """The items of a msgpack array, of exactly these types. Raises Malformed; ``what`` it is."""
    try:
        fields = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException):
        raise Malformed(f"{what} is not readable") from None
    if not isinstance(fields, list) or tuple(map(type, fields)) != kinds:
        raise Malformed(f"{what} has other fields than it should")
    return fields
