"""How much of what a peer lacks goes into one message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.gossip.replica import Lack, Replica
from overlay.wire.messages import Change, OriginDelta

#: Bytes of an OriginDelta without its changes, and of a Change without key and value, at most,
#: in msgpack: integers take 9, byte strings 5 and arrays 5 more than their contents.
DELTA_OVERHEAD_BYTES: Final = 5 + 37 + 4 * 9 + 1 + 5
CHANGE_OVERHEAD_BYTES: Final = 1 + 5 + 9 + 5


def change_bytes(change: Change) -> int:
    """The size of a change on the wire, at most."""
    return CHANGE_OVERHEAD_BYTES + len(change.key) + len(change.value or b"")


def fit(lacks: Sequence[tuple[Replica, Lack]], bytes_max: int) -> tuple[OriginDelta, ...]:
    """Deltas of at most ``bytes_max`` together, the oldest changes of each origin first.

    Max-min fair: the origin with the least to say goes first and leaves what it does not use of
    its equal share to the others, so a long summary never holds up anybody's load.
    """
    sized = sorted(
        (DELTA_OVERHEAD_BYTES + sum(map(change_bytes, lack.changes)), replica.origin, index)
        for index, (replica, lack) in enumerate(lacks)
    )
    left = bytes_max
    deltas = []
    for place, (size, _, index) in enumerate(sized):
        replica, lack = lacks[index]
        share = left // (len(sized) - place)
        if size <= share:
            changes, version, used = lack.changes, replica.version, size
        else:
            changes, used = _oldest(lack.changes, share)
            if not changes:
                continue
            version = changes[-1].version
        left -= used
        deltas.append(
            OriginDelta(
                origin=replica.origin,
                incarnation=replica.incarnation,
                after_version=lack.after_version,
                reset=lack.reset,
                changes=changes,
                version=version,
                gc_version=replica.gc_version,
            )
        )
    return tuple(deltas)


def _oldest(changes: Sequence[Change], bytes_max: int) -> tuple[tuple[Change, ...], int]:
    used = DELTA_OVERHEAD_BYTES
    for count, change in enumerate(changes):
        size = change_bytes(change)
        if used + size > bytes_max:
            return tuple(changes[:count]), used
        used += size
    return tuple(changes), used
