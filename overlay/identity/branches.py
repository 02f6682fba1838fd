"""Places for members, shared among the branches of the tree of invitations.

Whoever may invite can let in keys that it made up, any number of them. A member's branch is all
whom it let in, and whom those let in. It has one in PLACES_PER_BRANCH_PLACE of the places of the
branch around it, that of whoever let the member in. The founder's branch has all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Final

from overlay.identity.certificates import Certificate
from overlay.identity.peer_id import PeerId
from overlay.limits import CERTIFICATE_CHAIN_MAX, MEMBERS_MAX, PLACES_PER_BRANCH_PLACE
from overlay.recent import Recent

#: Turns that are remembered: of as many members as there may be, and of the branches around each.
_TURNS_MAX: Final = (CERTIFICATE_CHAIN_MAX + 1) * MEMBERS_MAX

#: Who let a member in: from the one that the founder invited down to the member itself.
Lineage = tuple[PeerId, ...]
#: The same, and the member once more: beside those that it let in.
Way = tuple[PeerId, ...]


def lineage_of(chain: Sequence[Certificate]) -> Lineage:
    """What a verified chain, own certificate first, tells; the founder's is empty."""
    return tuple(certificate.subject for certificate in reversed(chain))


def spread(ways: Sequence[Lineage]) -> list[int]:
    """In how many branches members are at each step from the founder on; the last: how many.

    So of two groups that has more which is of more branches, and a crowd is of one.
    """
    steps = range(1, CERTIFICATE_CHAIN_MAX + 1) if len(ways) > 1 else ()
    return [*(len({way[:step] for way in ways}) for step in steps), len(ways)]


@dataclass(frozen=True, slots=True)
class Full:
    """All places of a branch are taken. ``head``: whose it is; None: the founder's."""

    head: PeerId | None
    places: int

    def __str__(self) -> str:
        whose = "the mesh" if self.head is None else f"whom {self.head} let in"
        return f"there are {self.places} places for {whose}, and all are taken"


class Branches:
    """Which members have one of so many ``places``."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._seated: dict[PeerId, Lineage] = {}
        #: Members in each branch, by the lineage of its head.
        self._sizes: dict[Lineage, int] = {}

    def seat(self, member: PeerId, lineage: Lineage) -> Full | None:
        """Give ``member`` a place, or another one if it was let in anew; `Full`: it gets none."""
        before = self._seated.get(member)
        self.leave(member)
        for depth, branch in enumerate(_branches(lineage)):
            places = max(1, self._places // PLACES_PER_BRANCH_PLACE**depth)
            if self._sizes.get(branch, 0) >= places:
                if before is not None:
                    self._put(member, before)
                return Full(branch[-1] if branch else None, places)
        self._put(member, lineage)
        return None

    def leave(self, member: PeerId) -> None:
        """``member`` needs its place no more. Idempotent."""
        lineage = self._seated.pop(member, None)
        for branch in () if lineage is None else _branches(lineage):
            self._sizes[branch] -= 1
            if not self._sizes[branch]:
                del self._sizes[branch]

    def lineage(self, member: PeerId) -> Lineage | None:
        """Who let ``member`` in; None: it has no place."""
        return self._seated.get(member)

    def in_turns(self, members: Sequence[PeerId]) -> list[PeerId]:
        """Members that have a place, so that the branches at each fork take turns: in each come
        those first that come first in ``members``. Who makes up others is not asked for all of them
        before anybody else is.
        """
        ranks = {member: rank for rank, member in enumerate(members)}
        return self._in_turns(members, 0, ranks)

    def _in_turns(
        self, members: Sequence[PeerId], depth: int, ranks: Mapping[PeerId, int]
    ) -> list[PeerId]:
        if len(members) == 1:
            return [*members]
        forks: dict[Lineage, list[PeerId]] = {}
        for member in members:
            forks.setdefault(self._seated[member][depth : depth + 1], []).append(member)
        turns = [self._in_turns(branch, depth + 1, ranks) for branch in forks.values()]
        rounds = (filter(None, each) for each in zip_longest(*turns))
        return [*chain.from_iterable(sorted(each, key=ranks.__getitem__) for each in rounds)]

    def _put(self, member: PeerId, lineage: Lineage) -> None:
        self._seated[member] = lineage
        for branch in _branches(lineage):
            self._sizes[branch] = self._sizes.get(branch, 0) + 1


class Turns:
    """Whose turn it is, where at each fork branches take turns, so that a crowd has no more of them
    than one member. Pure: times are in seconds, of one clock.

    A `Way` leads from whom the founder let in down to a member, and ends with the member itself,
    which is beside those that it let in. Whoever goes away and comes back has had its turn still.
    """

    def __init__(self) -> None:
        #: When each branch had its latest turn, and in it each member.
        self._taken: Recent[Lineage, float] = Recent(_TURNS_MAX)

    def of(self, ways: Iterable[Way]) -> list[Way]:
        """Whose turn was longest ago comes first."""
        at = {way: [*map(self.latest, _stretches(way))] for way in ways}
        return sorted(at, key=lambda way: (at[way], way))

    def latest(self, way: Way) -> float:
        """When it had its turn, if that is known."""
        return self._taken.get(way, -math.inf)

    def take(self, way: Way, now: float) -> None:
        """It has its turn."""
        for stretch in _stretches(way):
            self._taken.put(stretch, now)


def _stretches(way: Way) -> Iterator[Lineage]:
    """A way's beginnings, the shortest first; the last is the way."""
    return (way[: 1 + depth] for depth in range(len(way)))


def _branches(lineage: Lineage) -> Iterator[Lineage]:
    """The branches that a member of this lineage is in, the founder's first."""
    return (lineage[:depth] for depth in range(len(lineage)))
