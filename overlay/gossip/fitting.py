"""How much of what a peer lacks goes into one message."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from overlay.gossip.latest import change_bytes
from overlay.gossip.replica import Lack
from overlay.identity.peer_id import PeerId
from overlay.wire.anti_entropy import Change, OriginDelta

#: Bytes of an OriginDelta without its changes, at most, in msgpack: a PeerId takes 37, integers
#: 9, and the heads of arrays 5.
DELTA_OVERHEAD_BYTES: Final = 5 + 37 + 4 * 9 + 1 + 5
#: What an origin gets of a message, if there is so much left and it needs it. Of smaller shares too
#: much would be overhead, and few records would fit.
_SHARE_BYTES_MIN: Final = 1024


def fit(
    lacks: Sequence[Lack],
    bytes_max: int,
    rng: random.Random,
    head_of: Callable[[PeerId], PeerId | None] = lambda origin: None,
) -> tuple[OriginDelta, ...]:
    """Deltas of at most ``bytes_max`` together, the oldest changes of each origin first.

    Max-min fair: the origin with the least to say goes first and leaves what it does not use of
    its equal share to the others, so a long summary never holds up anybody's load. Among equals
    chance decides, so that nobody is left out message after message. It is so among branches
    first, for a crowd may have a little to say of each of it all the time. ``head_of`` an origin's.
    """
    branches: dict[PeerId | None, list[Lack]] = {}
    for lack in lacks:
        branches.setdefault(head_of(lack.known.origin), []).append(lack)
    ordered = [*branches.values()]
    if len(ordered) > 1 and _size(lacks) > bytes_max:
        rng.shuffle(ordered)
    ordered.sort(key=_size)
    left, deltas = bytes_max, []
    for place, branch in enumerate(ordered):
        share = min(left, max(left // (len(ordered) - place), _SHARE_BYTES_MIN))
        taken, unused = _fit(branch, share, rng)
        left -= share - unused
        deltas += taken
    return tuple(deltas)


def _fit(
    lacks: Sequence[Lack], bytes_max: int, rng: random.Random
) -> tuple[list[OriginDelta], int]:
    """The deltas of one branch, and how much room is left."""
    left = bytes_max
    deltas = []
    ordered = [*lacks]
    if _size(lacks) > bytes_max:
        rng.shuffle(ordered)
    # Even if all has room: of what is more than its share, only the last is not cut.
    ordered.sort(key=lambda lack: lack.changes_bytes)
    for place, lack in enumerate(ordered):
        equal_share = left // (len(ordered) - place)
        share = min(left, max(equal_share, _SHARE_BYTES_MIN)) - DELTA_OVERHEAD_BYTES
        origin, incarnation, _, version, gc_version = lack.known
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
    return deltas, left


def _size(lacks: Iterable[Lack]) -> int:
    """What all of it would take."""
    return sum(DELTA_OVERHEAD_BYTES + lack.changes_bytes for lack in lacks)


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
