"""Tokens out of nothing: a number names an endless text, the same one every time.

The simulator never computes a model, so a prompt's tokens matter only as far as they are equal or
not. They are drawn from the name by a hash: nothing of a text needs to be stored, and two texts
differ from their first tokens on.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from models.engine import Tokens
from overlay.prefix.chain import BLOCK_TOKENS

VOCABULARY: Final = 32_000

#: Texts are at most this long (in blocks), so that blocks of different texts never share a number.
_TEXT_BLOCKS_MAX: Final = 1 << 20
#: Blocks remembered, 0.3 kB each. Shared prefixes are asked for again and again, questions are not.
_MEMO_BLOCKS: Final = 1 << 15
_NAME_BYTES: Final = 8
_UNPACK = struct.Struct(f"<{BLOCK_TOKENS}H").unpack
# One int object for each token id, however many prompts it is in.
_IDS = tuple(range(VOCABULARY))
_TOKEN_OF = tuple(_IDS[number % VOCABULARY] for number in range(1 << 16))


@lru_cache(maxsize=_MEMO_BLOCKS)
def block(number: int) -> Tokens:
    """The 32 tokens, each below VOCABULARY, of block ``number`` (0 to 2**128 - 1)."""
    digest = blake2b(number.to_bytes(16, "little"), digest_size=2 * BLOCK_TOKENS).digest()
    return tuple([_TOKEN_OF[drawn] for drawn in _UNPACK(digest)])


def text(name: int, tokens: int) -> Tokens:
    """The first ``tokens`` tokens of the text ``name`` (0 to 2**108 - 1), 33 million at most."""
    if not 0 <= tokens <= _TEXT_BLOCKS_MAX * BLOCK_TOKENS:
        raise ValueError(f"no text has {tokens} tokens")
    first = name * _TEXT_BLOCKS_MAX
    found: list[int] = []
    for number in range(first, first + -(-tokens // BLOCK_TOKENS)):
        found += block(number)
    del found[tokens:]
    return tuple(found)


def name_of(*parts: str | int) -> int:
    """A name (unsigned 64 bit) for a text that ``parts`` describe."""
    digest = blake2b(repr(parts).encode(), digest_size=_NAME_BYTES).digest()
    return int.from_bytes(digest, "little")
