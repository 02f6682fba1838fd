"""Block hash chains: what nodes tell each other about a prefix, instead of its tokens.

A block is 32 consecutive prompt tokens. Its hash is keyed with the mesh secret, so that outsiders
learn nothing from it, and covers the parent's hash, so that one hash stands for the whole prefix
up to its block: a summary needs no structure, and a lost message orphans nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

#: Tokens in a block. Smaller ones match more exactly, larger ones make smaller summaries.
BLOCK_TOKENS: Final = 32

_HASH_BYTES = 8
_BLOCK_BYTES = 4 * BLOCK_TOKENS
# BLAKE2b's personalisation keeps a root and a block apart, whatever they contain.
_ROOT = b"hearth root"
_BLOCK = b"hearth block"


def root_hash(mesh_secret: bytes, model_key: bytes) -> int:
    """The parent of a prompt's first block (unsigned 64 bit).

    ``mesh_secret``: at most 64 bytes. Raises ValueError if it is longer.
    """
    digest = blake2b(model_key, digest_size=_HASH_BYTES, key=mesh_secret, person=_ROOT).digest()
    return int.from_bytes(digest, "big")


def extend(mesh_secret: bytes, parent: int, tokens: Sequence[int]) -> int:
    """The hash (unsigned 64 bit) of the block ``tokens`` that follows ``parent``.

    Raises ValueError unless there are exactly BLOCK_TOKENS tokens, each an unsigned 32-bit number.
    """
    if len(tokens) != BLOCK_TOKENS:
        raise ValueError(f"a block has {BLOCK_TOKENS} tokens, not {len(tokens)}")
    data = parent.to_bytes(_HASH_BYTES, "big") + _packed(tokens)
    return int.from_bytes(_block_digest(mesh_secret, data), "big")


def block_hashes(mesh_secret: bytes, model_key: bytes, tokens: Sequence[int]) -> tuple[int, ...]:
    """The hashes of all whole blocks of a prompt, first block first.

    Raises ValueError for a token that is no unsigned 32-bit number.
    """
    data = _packed(tokens)
    digest = root_hash(mesh_secret, model_key).to_bytes(_HASH_BYTES, "big")
    hashes = []
    for start in range(0, len(data) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        digest = _block_digest(mesh_secret, digest + data[start : start + _BLOCK_BYTES])
        hashes.append(int.from_bytes(digest, "big"))
    return tuple(hashes)


def _block_digest(mesh_secret: bytes, data: bytes) -> bytes:
    return blake2b(data, digest_size=_HASH_BYTES, key=mesh_secret, person=_BLOCK).digest()


def _packed(tokens: Sequence[int]) -> bytes:
    try:
        return struct.pack(f"<{len(tokens)}I", *tokens)
    except struct.error as error:
        raise ValueError(f"not a token: {error}") from None
