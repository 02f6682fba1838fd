"""Who of several holders of a prefix keeps it: all nodes name the same one, without a word."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from overlay.identity.peer_id import PeerId


def keeper(block: int, holders: Iterable[PeerId]) -> PeerId:
    """The keeper of the prefix that ends with the block, by rendezvous hashing.

    Thaler, Ravishankar: "Using name-based mappings to increase hit rates" (1998).
    """

    def weight(holder: PeerId) -> bytes:
        return blake2b(block.to_bytes(8, "big") + bytes(holder), digest_size=8).digest()

    return max(holders, key=weight)
