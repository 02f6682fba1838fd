"""PeerId: a node's public key, and how people read it.

libp2p's format (https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md): base58btc of
the identity multihash of the protobuf-encoded Ed25519 public key, hence ``12D3KooW…``.
"""

from __future__ import annotations

from functools import lru_cache

import base58

from overlay.errors import Malformed
from overlay.limits import MEMBERS_MAX

#: Identity multihash (00), length 36 (24); protobuf: type Ed25519 (08 01), 32 data bytes (12 20).
_PREFIX = bytes.fromhex("002408011220")


class PeerId(bytes):
    """The 32 bytes of an Ed25519 public key; ``str()`` gives the libp2p form.

    Compact on the wire and in dictionaries, ordered by its bytes.
    """

    __slots__ = ()

    def __new__(cls, public_key: bytes) -> PeerId:
        if len(public_key) != 32:
            raise Malformed(f"a PeerId is a public key of 32 bytes, not {len(public_key)}")
        return super().__new__(cls, public_key)

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Read the ``12D3KooW…`` form. Raises Malformed."""
        try:
            raw = base58.b58decode(text)
        except ValueError as error:
            raise Malformed(f"{text[:60]!r} is not a PeerId: {error}") from None
        if not raw.startswith(_PREFIX):
            raise Malformed(f"{text[:60]!r} is not the PeerId of an Ed25519 key")
        return cls(raw[len(_PREFIX) :])

    def __str__(self) -> str:
        return _text(bytes(self))

    def __repr__(self) -> str:
        return f"PeerId({self.short})"

    @property
    def short(self) -> str:
        """The last eight characters, for logs and tables."""
        return str(self)[-8:]


@lru_cache(2 * MEMBERS_MAX)
def _text(public_key: bytes) -> str:
    """A status of many members, and every line of the log, asks for the same ones."""
    return base58.b58encode(_PREFIX + public_key).decode("ascii")
