"""Which peer holds which block: the answer to "who has the longest prefix of this prompt?".

An inverted index, block hash -> bitmask of peer slots, so that one lookup per block answers for
all peers at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from overlay.limits import SUMMARY_BLOCKS_MAX

# Any hashable id: the index lies below the layer that defines PeerId.
P = TypeVar("P", bound=Hashable)


class PeerIndex(Generic[P]):
    """The prefix summaries of all peers. Hashes of different models never collide (keyed root)."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._blocks: dict[P, set[int]] = {}
        self._slots: dict[P, int] = {}
        self._peers: dict[int, P] = {}
        # The lowest free slot is reused first, so that bitmasks stay short.
        self._free: list[int] = []

    def add(self, peer: P, hashes: Iterable[int]) -> None:
        """``peer`` holds these blocks too; those beyond SUMMARY_BLOCKS_MAX are not recorded."""
        held = self._blocks.get(peer)
        if held is None:
            held = self._blocks[peer] = set()
            slot = heapq.heappop(self._free) if self._free else len(self._slots)
            self._slots[peer] = slot
            self._peers[slot] = peer
        bit = 1 << self._slots[peer]
        for block in hashes:
            if len(held) >= SUMMARY_BLOCKS_MAX:
                return
            held.add(block)
            self._holders[block] = self._holders.get(block, 0) | bit

    def remove(self, peer: P, hashes: Iterable[int]) -> None:
        """``peer`` no longer holds these blocks. Unknown ones are ignored."""
        held = self._blocks.get(peer)
        if held is None:
            return
        for block in hashes:
            if block in held:
                held.remove(block)
                self._clear(block, 1 << self._slots[peer])

    def drop(self, peer: P) -> None:
        """Forget the peer and all its blocks."""
        held = self._blocks.pop(peer, None)
        if held is None:
            return
        slot = self._slots.pop(peer)
        del self._peers[slot]
        heapq.heappush(self._free, slot)
        for block in held:
            self._clear(block, 1 << slot)

    def match(self, hashes: Sequence[int]) -> dict[P, int]:
        """For a prompt's block hashes, first block first: peer -> leading blocks it holds.

        The deepest block that a peer holds counts: nodes evict leaves first, so it implies its
        ancestors, even when a bounded delta or summary left some out. Peers with none are absent.
        """
        found: dict[P, int] = {}
        seen = 0
        for depth in range(len(hashes), 0, -1):
            new = self._holders.get(hashes[depth - 1], 0) & ~seen
            seen |= new
            while new:
                lowest = new & -new
                found[self._peers[lowest.bit_length() - 1]] = depth
                new ^= lowest
        return found

    def blocks(self, peer: P) -> int:
        """How many blocks ``peer`` holds, as far as known here."""
        return len(self._blocks.get(peer, ()))

    def _clear(self, block: int, bit: int) -> None:
        rest = self._holders[block] & ~bit
        if rest:
            self._holders[block] = rest
        else:
            del self._holders[block]
