"""Digests of a few bytes per origin, for two nodes that take the same origins for alive.

A digest entry takes some 50 bytes, and nearly all of them say what the other end knows already:
who there is, of which incarnation. So each end sorts the origins that it takes for alive, and
hashes who they are, their incarnations, and their counters without the lowest 16 bits (the
*fingerprint*). Where the fingerprints agree, those 16 bits are the rest of the digest: in the
order of the origins, they stand for themselves. Nothing is lost or guessed. Where they differ,
the two exchange whole digests.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Final

from overlay.errors import Malformed
from overlay.identity.peer_id import PeerId
from overlay.wire.anti_entropy import (
    CompactSyn,
    CompactSynAck,
    DigestEntry,
    OriginDelta,
    OwnContents,
    SynAck,
)

#: Of each counter so many bits are told; a node's heartbeat takes 18 hours to outgrow them.
LOW_BITS: Final = 16
FINGERPRINT_BYTES: Final = 8


class CompactDigest:
    """What this node knows of the origins that it takes for alive, itself among them."""

    def __init__(self, entries: Iterable[DigestEntry]) -> None:
        self._entries = sorted(entries)
        columns = list(zip(*self._entries, strict=True)) or [()] * 5
        origins, incarnations, *counters = columns
        self._origins = frozenset(origins)
        hashed = blake2b(digest_size=FINGERPRINT_BYTES, person=b"hearth digest")
        hashed.update(b"".join(origins))
        for highs in (incarnations, *([n >> LOW_BITS for n in column] for column in counters)):
            hashed.update(struct.pack(f">{len(highs)}Q", *highs))
        #: Of who they are, and of all of the entries but the low bits.
        self.fingerprint = hashed.digest()
        below = (1 << LOW_BITS) - 1
        self._heartbeats, *contents = ([n & below for n in column] for column in counters)
        #: Version and gc_version of each origin.
        self._contents = list(zip(*contents, strict=True))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, origin: PeerId) -> bool:
        """Whether the origin is among them."""
        return origin in self._origins

    def syn(self) -> CompactSyn:
        """This digest as a message."""
        return CompactSyn(
            self.fingerprint,
            _packed(self._heartbeats),
            _packed([*chain.from_iterable(self._contents)]),
        )

    def read(self, syn: CompactSyn) -> list[DigestEntry] | None:
        """The entries of ``syn`` that differ from those known here; None: it cannot be read.

        Raises Malformed if no honest peer could have sent it.
        """
        if _fingerprint(syn.fingerprint) != self.fingerprint:
            return None
        mine = zip(self._heartbeats, self._contents, strict=True)
        return [
            self._entry(place, *told)
            for place, (told, known) in enumerate(zip(self._told(syn), mine, strict=True))
            if told != known
        ]

    def answer(
        self, syn: CompactSyn, deltas: tuple[OriginDelta, ...], own: OwnContents
    ) -> CompactSynAck:
        """What is known here otherwise than in ``syn``, which can be read."""
        heartbeats: dict[int, list[int]] = {}
        contents: dict[int, list[int]] = {}
        for place, (heartbeat, told) in enumerate(self._told(syn)):
            mine = self._heartbeats[place]
            if told != self._contents[place]:
                contents[place] = [mine, *self._contents[place]]
            elif heartbeat != mine:
                heartbeats[place] = [mine]
        return CompactSynAck(
            self.fingerprint, self._sparse(heartbeats), self._sparse(contents), deltas, own
        )

    def read_answer(self, answer: CompactSynAck) -> SynAck:
        """``answer`` as a whole one; of deltas only, if who is alive has changed here since.

        Raises Malformed if no honest peer could have sent it.
        """
        if _fingerprint(answer.fingerprint) != self.fingerprint:
            return SynAck((), answer.deltas, answer.own)
        # Contents that are not told are as this node said; if it knows more by now, that does no
        # harm: the next round tells.
        later = self._unpacked_sparse(answer.heartbeats, 1)
        other = self._unpacked_sparse(answer.contents, 3)
        digest = [self._entry(at, heard, self._contents[at]) for at, (heard,) in later]
        digest += [self._entry(at, heard, (v, gc)) for at, (heard, v, gc) in other]
        return SynAck(tuple(digest), answer.deltas, answer.own)

    def _entry(self, place: int, heartbeat: int, contents: tuple[int, int]) -> DigestEntry:
        """That of the origin there, with other low bits."""
        origin, incarnation, *known = self._entries[place]
        low = (heartbeat, *contents)
        counts = ((k >> LOW_BITS << LOW_BITS) + n for k, n in zip(known, low, strict=True))
        return DigestEntry(origin, incarnation, *counts)

    def _told(self, syn: CompactSyn) -> Iterable[tuple[int, tuple[int, int]]]:
        heartbeats = _unpacked(syn.heartbeats)
        contents = _unpacked(syn.contents)
        if len(heartbeats) != len(self) or len(contents) != 2 * len(self):
            raise Malformed("a compact digest has not a row for each origin")
        return zip(heartbeats, zip(contents[::2], contents[1::2], strict=True), strict=True)

    def _sparse(self, rows: dict[int, list[int]]) -> bytes:
        """A bit for each origin, the first one lowest, then the rows; nothing if there are none."""
        if not rows:
            return b""
        bits = sum(1 << place for place in rows)
        head = bits.to_bytes((len(self) + 7) // 8, "little")
        return head + _packed([*chain.from_iterable(rows.values())])

    def _unpacked_sparse(self, data: bytes, width: int) -> list[tuple[int, Sequence[int]]]:
        if not data:
            return []
        head = (len(self) + 7) // 8
        bits = int.from_bytes(data[:head], "little")
        places = [place for place in range(len(self)) if bits >> place & 1]
        numbers = _unpacked(data[head:])
        if len(data) < head or bits >> len(self) or len(numbers) != width * len(places):
            raise Malformed("an answer to a compact digest has not a row for each of its bits")
        rows = [numbers[at : at + width] for at in range(0, len(numbers), width)]
        return list(zip(places, rows, strict=True))


def _fingerprint(told: bytes) -> bytes:
    if len(told) != FINGERPRINT_BYTES:
        raise Malformed(f"a fingerprint of {len(told)} bytes")
    return told


def _packed(numbers: Sequence[int]) -> bytes:
    return struct.pack(f">{len(numbers)}H", *numbers)


def _unpacked(data: bytes) -> Sequence[int]:
    if len(data) % 2:
        raise Malformed("half a number in a compact digest")
    return struct.unpack(f">{len(data) // 2}H", data)
