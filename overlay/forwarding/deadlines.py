"""How long jobs wait, and when they have waited long enough: found without looking at all."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import Final

from models.engine import texts_of
from overlay.forwarding.job import Job
from overlay.limits import ACCEPT_S, FORWARD_BYTES_PER_S
from overlay.wire.messages import Forward

#: Entries of jobs that are over, which are not worth sweeping up.
_IDLE_ENTRIES: Final = 64
#: Jobs that are due and are seen to before everything else has a turn: for each it may be looked
#: who else could take it, which takes a millisecond among hundreds.
TAKEN_MAX: Final = 32
#: What one takes on the wire, at most but for a few.
_TOKEN_BYTES: Final = 4


def accept_s(forward: Forward) -> float:
    """How long whoever gets the request may take to say that it, or another, takes it.

    Whoever passes it on gives those after it up before it is given up itself.
    """
    size = sum(len(text.encode(errors="replace")) for text in texts_of(forward.prompt))
    size += _TOKEN_BYTES * (len(forward.tokens or ()) + len(forward.generated))
    return max(ACCEPT_S, size / FORWARD_BYTES_PER_S) * (1 + forward.hop_limit)


class Deadlines:
    """A heap with an entry for each job, at the time it ends or before.

    Patience is mostly extended, with each frame of an answer. Its entry then stays where it is,
    and moves when its time has come. So does that of a job that is over, until it comes first, or
    until most are of that kind: jobs last for moments, and their deadlines for minutes. So entries
    have the jobs' names only: a job has a prompt, which may be long.
    """

    def __init__(self, jobs: Mapping[bytes, Job]) -> None:
        """``jobs``: those that are not over yet."""
        self._jobs = jobs
        self._entries: list[tuple[float, int, bytes]] = []
        self._pushed = 0
        #: No job will have waited long enough before: what `next` said, or what was pushed since.
        self.soonest = math.inf

    def wait(self, job: Job, until: float) -> None:
        """Its downstream has until then to be heard of; the whole job has its deadline."""
        job.patience_until = until
        # Entries are never later than the job's own deadline.
        if until < job.looked_at:
            self._push(job)

    def next(self) -> float:
        """No job will have waited long enough before; infinity if nothing waits."""
        while self._entries and not self._stands(self._entries[0]):
            heapq.heappop(self._entries)
        self.soonest = self._entries[0][0] if self._entries else math.inf
        return self.soonest

    def take(self, now: float) -> list[Job]:
        """Who has waited long enough; they wait no more, until they are told to.

        Some of them, that is, if they are many: `next` tells that there are more.
        """
        found: list[Job] = []
        while len(found) < TAKEN_MAX and self.next() <= now:
            at, _, request_id = heapq.heappop(self._entries)
            job = self._jobs[request_id]
            if job.due == at:
                job.looked_at = math.inf
                found.append(job)
            else:
                self._push(job)
        return found

    def _stands(self, entry: tuple[float, int, bytes]) -> bool:
        """Whether it is of a job that is not over, and that no other entry stands for."""
        at, _, request_id = entry
        job = self._jobs.get(request_id)
        return job is not None and job.looked_at == at

    def _push(self, job: Job) -> None:
        if len(self._entries) > 2 * len(self._jobs) + _IDLE_ENTRIES:
            self._entries = [entry for entry in self._entries if self._stands(entry)]
            heapq.heapify(self._entries)
        self._pushed += 1
        job.looked_at = job.due
        self.soonest = min(self.soonest, job.due)
        heapq.heappush(self._entries, (job.due, self._pushed, job.request_id))
