"""How much of what a peer lacks goes into one message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from overlay.gossip.latest import change_bytes
from overlay.gossip.replica import Lack
from overlay.wire.messages import Change, OriginDelta

#: Bytes of an OriginDelta without its changes, at most, in msgpack: a PeerId takes 37, integers
#: 9, and the heads of arrays 5.
DELTA_OVERHEAD_BYTES: Final = 5 + 37 + 4 * 9 + 1 + 5


def fit(lacks: Sequence[Lack], bytes_max: int) -> tuple[OriginDelta, ...]:
    """Deltas of at most ``bytes_max`` together, the oldest changes of each origin first.

    Max-min fair: the origin with the least to say goes first and leaves what it does not use of
    its equal share to the others, so a long summary never holds up anybody's load.
    """
    left = bytes_max
    deltas = []
    ordered = sorted(lacks, key=lambda lack: (lack.changes_bytes, lack.known.origin))
    for place, lack in enumerate(ordered):
        origin, incarnation, _, version, gc_version = lack.known
        share = left // (len(ordered) - place) - DELTA_OVERHEAD_BYTES
        if lack.changes_bytes <= share:
            changes, used = tuple(lack.changes), lack.changes_bytes
        else:
            changes, used = _oldest(lack.changes, share)
            if not changes:
                continue
            version = changes[-1].version
        left -= DELTA_OVERHEAD_BYTES + used
        deltas.append(
            OriginDelta(
                origin, incarnation, lack.after_version, lack.reset, changes, version, gc_version
            )
        )
    return tuple(deltas)


def _oldest(changes: Iterable[Change], bytes_max: int) -> tuple[tuple[Change, ...], int]:
    taken = []
    used = 0
    for change in changes:
        size = change_bytes(change)
        if used + size > bytes_max:
            break
        used += size
        taken.append(change)
    return tuple(taken), used
