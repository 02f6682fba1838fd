"""Who keeps requests waiting: who is left alone for it, and who is expected to be late."""

from __future__ import annotations

from typing import Final

from overlay.forwarding.job import Job
from overlay.forwarding.left_alone import LeftAlone
from overlay.identity.peer_id import PeerId
from overlay.routing.lateness import Lateness

#: Who looks so much later than it was to has no time to tell others' silence from its own.
_STALLED_S: Final = 1.0
#: Then they get this long: more than until a silent link is found out.
_AWAKE_S: Final = 6.0


class Punctuality:
    """Of peers, as seen by ``me``. Times in seconds, of one monotonic clock."""

    def __init__(self, me: PeerId) -> None:
        self._me = me
        self.left_alone = LeftAlone()
        self.lateness = Lateness()

    def after_sleep(self, job: Job, now: float) -> float | None:
        """Until when to wait for its downstream after all, if this node slept, or was stalled.

        What its peers said waits to be read, and so does the news of the links that broke.
        """
        return now + _AWAKE_S if _stalled(job, now) else None

    def let_down(self, job: Job, now: float, *, lost: bool) -> None:
        """Its downstream refused it, lied or was silent, or the link was ``lost``: late, or not.

        Who was waited for in vain, or had this node wait for nothing for long, is left alone. Not
        so if others may be the cause: a network, or to whom the peer passed it on, if it said so in
        time. Nor if it answered the request before: honest peers that are overloaded let one down
        now and then. Such a peer was late, no more.
        """
        peer = job.downstream
        assert peer is not None, "a dispatched job has a downstream"
        late_ms = self._late_ms(job, now)
        in_vain = late_ms is not None and now >= job.patience_until
        others = lost or (job.passed_on and not in_vain)
        if not late_ms and not in_vain:
            self.left_alone.failed(peer)
        elif others or self.left_alone.answers(peer):
            self.left_alone.let_down(peer, now)
            self._answered(job, late_ms or 0.0, now)
        else:
            self.left_alone.fell_silent(peer, now)

    def waited(self, job: Job, now: float) -> None:
        """Nobody waits for the job's downstream any more: learn from how long that took."""
        late_ms = self._late_ms(job, now)
        if late_ms is not None:
            self._answered(job, late_ms, now)

    def _late_ms(self, job: Job, now: float) -> float | None:
        """By how much a peer was late with the job; None: that cannot be told, or it was here."""
        here = job.downstream in (None, self._me)
        return None if here or _stalled(job, now) else job.late_ms(now)

    def _answered(self, job: Job, late_ms: float, now: float) -> None:
        assert job.downstream is not None, "a dispatched job has a downstream"
        self.lateness.answered(job.downstream, late_ms, now)


def _stalled(job: Job, now: float) -> bool:
    """Whether this node looks at a job far later than it was to."""
    return now - job.due >= _STALLED_S
