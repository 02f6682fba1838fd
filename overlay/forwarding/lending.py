"""Whether guests' requests are computed here: the owner's word, applied to each as it comes.

A guest is the member whose link brought the request, never a name in it.
"""

from __future__ import annotations

from collections.abc import Collection

from overlay.errors import HearthError, Overloaded, Paused
from overlay.forwarding.job import Job
from overlay.identity.peer_id import PeerId
from overlay.limits import OPEN_REQUESTS_PER_PEER_MAX


class Lending:
    """What a node's owner grants to guests; the owner's own requests never come here."""

    def __init__(self) -> None:
        #: Takes no new requests of guests.
        self.paused = False

    def refusal(self, guest: PeerId, jobs: Collection[Job]) -> HearthError | None:
        """Why no request of ``guest`` may come in now, if so. ``jobs``: all that are open here."""
        if self.paused:
            return paused()
        open_here = sum(job.upstream == guest for job in jobs)
        if open_here >= OPEN_REQUESTS_PER_PEER_MAX:
            return Overloaded(f"{open_here} requests of yours are open here: wait for one to end")
        return None


def paused() -> Paused:
    """What a guest is told."""
    return Paused("its owner has paused lending this machine: ask elsewhere, or again later")
