"""Who gets a place where the owner grants guests' requests so many: in turn, by branches.

First come, first served would give them all to a crowd that one member let in, for as long as it
goes on asking.
"""

from __future__ import annotations

from models.engine import Client
from models.fairness import VirtualCounters
from overlay.limits import PLACE_KEPT_S


class GuestPlaces:
    """At most ``most`` requests of guests at one time; None: no bound, and nothing is kept.

    A guest that is refused waits: the next place is kept for whoever had fewest of those who wait,
    in the branch that had fewest, until it asks again or PLACE_KEPT_S have passed.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        #: How many each branch was given.
        self._given = VirtualCounters()
        self._taken: dict[bytes, Client] = {}
        #: Until when; who asked last is last.
        self._waiting: dict[Client, float] = {}

    @property
    def free(self) -> int | None:
        """How many are not taken; None: no bound."""
        return None if self._most is None else self._most - len(self._taken)

    def refuses(self, client: Client, now: float) -> bool:
        """Whether there is none for a guest that asks now; if there is, it is to `take` it."""
        free = self.free
        if free is None:
            return False
        self._expire(now)
        if self._waiting.pop(client, None) is None:
            self._given.arrive(client)
        self._waiting[client] = now + PLACE_KEPT_S
        if not free:
            return True
        had = self._given.served(client)
        return sum(self._given.served(other) < had for other in self._waiting) >= free

    def take(self, request_id: bytes, client: Client) -> None:
        """A guest that was not refused has a request here, until it gives the place `back`."""
        if self._waiting.pop(client, None) is not None:
            self._given.charge(client, prompt=1)
            self._taken[request_id] = client

    def back(self, request_id: bytes) -> None:
        """The request is over. Idempotent."""
        if (client := self._taken.pop(request_id, None)) is not None:
            self._given.leave(client)

    def _expire(self, now: float) -> None:
        for client, until in list(self._waiting.items()):
            if now < until:
                break
            del self._waiting[client]
            self._given.leave(client)
