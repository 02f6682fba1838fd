"""Which peer holds which block: the answer to "who has the longest prefix of this prompt?".

An inverted index, block hash -> bitmask of peer slots, so that one lookup per block answers for
all peers at once.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Container, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from overlay.limits import KNOWN_BLOCKS_PER_PEER_MAX, SUMMARY_BLOCKS_MAX

# Any hashable id: the index lies below the layer that defines PeerId.
P = TypeVar("P", bound=Hashable)

#: Blocks are spread over this many dicts, so that none takes long to grow or to be tidied.
_SHARDS: Final = 64
_SHARD_MASK: Final = _SHARDS - 1


def leading(hashes: Sequence[int], held: Container[int]) -> int:
    """How many leading blocks of a prompt are held: the deepest one counts."""
    return next((depth for depth in range(len(hashes), 0, -1) if hashes[depth - 1] in held), 0)


class PeerIndex(Generic[P]):
    """The prefix summaries of all peers. Hashes of different models never collide (keyed root)."""

    def __init__(self) -> None:
        self._holders = _Holders()
        self._summaries: dict[P, _Summary] = {}
        self._peers: dict[int, P] = {}
        # The lowest free slot is reused first, so that bitmasks stay short.
        self._free: list[int] = []

    def add(self, peer: P, hashes: Iterable[int]) -> None:
        """``peer`` holds these blocks too; no more than KNOWN_BLOCKS_PER_PEER_MAX are recorded."""
        summary = self._summaries.get(peer)
        if summary is None:
            slot = heapq.heappop(self._free) if self._free else len(self._peers)
            summary = self._summaries[peer] = _Summary(1 << slot)
            self._peers[slot] = peer
        for block in hashes:
            if summary.count >= KNOWN_BLOCKS_PER_PEER_MAX:
                break
            if self._holders.add(block, summary.bit):
                summary.count += 1
                summary.came.append(block)
        if len(summary.came) > summary.count + SUMMARY_BLOCKS_MAX:
            self._tidy(summary)

    def remove(self, peer: P, hashes: Iterable[int]) -> None:
        """``peer`` no longer holds these blocks. Unknown ones are ignored."""
        summary = self._summaries.get(peer)
        if summary is not None:
            summary.count -= sum(self._holders.remove(block, summary.bit) for block in hashes)

    def drop(self, peer: P) -> None:
        """Forget the peer and all its blocks."""
        summary = self._summaries.pop(peer, None)
        if summary is None:
            return
        for block in summary.came:
            self._holders.remove(block, summary.bit)
        slot = summary.bit.bit_length() - 1
        del self._peers[slot]
        heapq.heappush(self._free, slot)

    def match(self, hashes: Sequence[int]) -> dict[P, int]:
        """For a prompt's block hashes, first block first: peer -> leading blocks it holds.

        The deepest block that a peer holds counts: nodes evict leaves first, so it implies its
        ancestors, even when a bounded delta or summary left some out. Peers with none are absent.
        """
        found: dict[P, int] = {}
        seen = 0
        shards = self._holders.shards
        for depth in range(len(hashes), 0, -1):
            block = hashes[depth - 1]
            holders = shards[block & _SHARD_MASK].get(block)
            if holders is None or not (new := holders & ~seen):
                continue
            seen |= holders
            while new:
                lowest = new & -new
                found[self._peers[lowest.bit_length() - 1]] = depth
                new ^= lowest
        return found

    def holders(self, block: int) -> list[P]:
        """The peers that hold the block."""
        bits, found = self._holders.of(block), []
        while bits:
            lowest = bits & -bits
            found.append(self._peers[lowest.bit_length() - 1])
            bits ^= lowest
        return found

    def __contains__(self, block: object) -> bool:
        """Whether any peer holds the block."""
        return isinstance(block, int) and self._holders.of(block) != 0

    def blocks(self, peer: P) -> int:
        """How many blocks ``peer`` holds, as far as known here."""
        summary = self._summaries.get(peer)
        return 0 if summary is None else summary.count

    def _tidy(self, summary: _Summary) -> None:
        """Sort out what went again meanwhile."""
        came = dict.fromkeys(summary.came)
        summary.came = array("Q", (b for b in came if self._holders.of(b) & summary.bit))


@dataclass(slots=True)
class _Summary:
    """One peer's blocks. Their hashes stand in the index once; here they take 8 bytes each."""

    bit: int
    count: int = 0
    #: All blocks that it holds, and some that it held before, perhaps more than once.
    came: array[int] = field(default_factory=lambda: array("Q"))


class _Holders:
    """Block hash -> bitmask of the peers that hold the block."""

    def __init__(self) -> None:
        self.shards: list[dict[int, int]] = [{} for _ in range(_SHARDS)]
        self._gone = [0] * _SHARDS

    def of(self, block: int) -> int:
        """The holders of a block; 0 for none."""
        return self.shards[block & _SHARD_MASK].get(block, 0)

    def add(self, block: int, bit: int) -> bool:
        """The peer with this bit holds the block; False if that was known."""
        shard = self.shards[block & _SHARD_MASK]
        holders = shard.get(block)
        if holders is None:
            shard[block] = bit  # one object for all blocks that nobody else holds
        elif holders & bit:
            return False
        else:
            shard[block] = holders | bit
        return True

    def remove(self, block: int, bit: int) -> bool:
        """The peer with this bit holds the block no longer; False if it did not."""
        number = block & _SHARD_MASK
        shard = self.shards[number]
        holders = shard.get(block, 0)
        if not holders & bit:
            return False
        if holders != bit:
            shard[block] = holders & ~bit
            return True
        del shard[block]
        self._gone[number] += 1
        if 2 * self._gone[number] > len(shard):
            # A dict keeps the room of what it lost, and triples when that is used up.
            self.shards[number] = dict(shard)
            self._gone[number] = 0
        return True
