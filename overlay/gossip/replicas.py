"""What a node knows of the other origins, and of which of them it tells others.

Nothing in a record shows who wrote it, so a member can make up origins as it likes. Of one that
no chain proves to be a member, nobody else is told: so what is made up stays where it was told,
gives way to others, and is forgotten soon. A link is proof, too, but to its own ends alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Final

from overlay.gossip.own_words import OwnWords
from overlay.gossip.replica import Applied, Replica
from overlay.identity.branches import Lineage
from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX, REPLICAS_BYTES_MAX, UNPROVEN_S
from overlay.wire.anti_entropy import OriginDelta

#: What each origin may have, however much the others have. Where members are few, each may have
#: more.
_SHARE_BYTES: Final = REPLICAS_BYTES_MAX // MEMBERS_MAX


class Replicas:
    """Times in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self.by_origin: dict[PeerId, Replica] = {}
        #: Silent for so long that nobody is told of them any more; soon they are forgotten.
        self.hushed: set[PeerId] = set()
        self._proven: set[PeerId] = set()
        #: In whose branch those are of whom that is known: whom the founder let in.
        self._heads: dict[PeerId, PeerId] = {}
        #: Who had a link, which is proof to this node alone.
        self._linked: set[PeerId] = set()
        #: Those whom others cannot know to be members, and since when there are replicas of them:
        #: the oldest first.
        self._unproven: dict[PeerId, float] = {}
        #: The replicas' size on the wire, as of the latest `weigh` and grown since.
        self._held_bytes = 0
        #: What each member may have, however much the others have: no crowd keeps a busy node's
        #: records from going on, which no later message would make up for.
        self._members_share_bytes = _SHARE_BYTES

    def prove(self, origin: PeerId, lineage: Lineage = ()) -> None:
        """``origin`` is a member: others may be told of it, now or once something is known.

        ``lineage``: who let it in, if that is known.
        """
        self._proven.add(origin)
        if lineage:
            self._heads[origin] = lineage[0]
        self._unproven.pop(origin, None)

    def head_of(self, origin: PeerId) -> PeerId | None:
        """In whose branch it is, if that is known."""
        return self._heads.get(origin)

    def linked(self, origin: PeerId) -> None:
        """``origin`` has shown over a link that it is a member."""
        self._linked.add(origin)

    def is_member(self, origin: PeerId) -> bool:
        """Whether ``origin`` is known to be a member."""
        return origin in self._proven or origin in self._linked

    def overdue(self, now: float) -> list[PeerId]:
        """The origins that nobody has proven to be members, in all the time that they had."""
        return [
            origin
            for origin, met_s in self._unproven.items()
            if now - met_s >= UNPROVEN_S and origin not in self._linked
        ]

    def untold(self, mentioned: Set[PeerId] = frozenset()) -> set[PeerId]:
        """The origins of which nothing is told to a peer that ``mentioned`` these.

        Whoever mentions an origin hears how much is known here, and so sends its chain.
        """
        return self.hushed.union(self._unproven.keys() - mentioned)

    def told(self, mentioned: Set[PeerId] = frozenset()) -> Iterator[Replica]:
        """The replicas of all but the `untold`."""
        untold = self.untold(mentioned)
        return (each for origin, each in self.by_origin.items() if origin not in untold)

    def room_for(self, origin: PeerId, words: OwnWords) -> PeerId | None:
        """Who must be dropped for a new ``origin``; itself if it has to stay out.

        Who has a link takes the place of one that has none, and anybody that of the oldest of
        those who may be made up.
        """
        if len(self.by_origin) + 1 < MEMBERS_MAX:
            return None
        yielding = [*self._unproven, *(self.by_origin if origin in words else ())]
        return next((other for other in yielding if other not in words), origin)

    def meet(self, origin: PeerId, incarnation: int, now: float) -> Replica:
        """A replica of a new origin, of which nothing is known yet."""
        if origin not in self._proven:
            self._unproven[origin] = now
        replica = self.by_origin[origin] = Replica(origin, incarnation)
        return replica

    def drop(self, origin: PeerId) -> Replica | None:
        """Forget it; returns what was known."""
        self._proven.discard(origin)
        self._heads.pop(origin, None)
        self._linked.discard(origin)
        self._unproven.pop(origin, None)
        return self.by_origin.pop(origin, None)

    def weigh(self) -> None:
        """Find out how much is held; call it now and then."""
        self._held_bytes = sum(replica.size_bytes for replica in self.by_origin.values())
        members = sum(map(self.is_member, self.by_origin))
        self._members_share_bytes = max(_SHARE_BYTES, REPLICAS_BYTES_MAX // max(1, members))

    def apply(self, replica: Replica, delta: OriginDelta) -> Applied:
        """As `Replica.apply`, while there is room in all."""
        size_bytes = replica.size_bytes
        if self._held_bytes > REPLICAS_BYTES_MAX:
            member = self.is_member(replica.origin)
            if size_bytes > (self._members_share_bytes if member else _SHARE_BYTES):
                return Applied(excess=True)
        applied = replica.apply(delta)
        self._held_bytes += replica.size_bytes - size_bytes
        return applied
