"""Whether guests' requests are computed here: the owner's word, applied to each as it comes.

A guest is the member whose link brought the request, never a name in it. What is refused is not
passed on: the third node would count it as this node's.
"""

from __future__ import annotations

import math
from collections import Counter

from models.engine import Chunk, RequestEvent, Started, texts_of
from overlay.errors import HearthError, ModelNotFound, Overloaded, Paused, QuotaUsedUp
from overlay.forwarding.effects import Noticed
from overlay.forwarding.job import Job
from overlay.forwarding.terms import Terms, TokenQuota
from overlay.identity.peer_id import PeerId
from overlay.limits import GUESTS_TOKENS_MAX, MEMBERS_MAX, OPEN_REQUESTS_PER_PEER_MAX


class Lending:
    """What a node's owner grants to guests; the owner's own requests are never refused here."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        #: Whose each open request is, and the tokens that are kept of it.
        self._guest_of: dict[bytes, tuple[PeerId, int]] = {}
        #: How many each guest has, and the tokens of all of them.
        self._open: Counter[PeerId] = Counter()
        self._tokens: Counter[PeerId] = Counter()
        #: Takes no new requests of guests.
        self.paused = False
        #: How often a guest was refused, by the code of the error.
        self.refused: Counter[str] = Counter()
        per_minute = terms.guest_tokens_per_minute
        self._quota = None if per_minute is None else TokenQuota(per_minute)

    # --- A guest's request ------------------------------------------------------------------------

    def arrives(self, job: Job, *, private: bool) -> HearthError | None:
        """Why a guest's job may not come in now, if so. ``private``: its model is."""
        return self._noted(self._unwelcome(job, private=private))

    def admitted(self, job: Job) -> None:
        """A job is open here from now on, until it has `ended`."""
        if job.upstream is not None:
            tokens = _tokens_of(job)
            self._guest_of[job.request_id] = job.upstream, tokens
            self._open[job.upstream] += 1
            self._tokens[job.upstream] += tokens

    def noticed(self, guest: PeerId) -> list[Noticed]:
        """What is to be said of a guest that was refused."""
        full = f"{OPEN_REQUESTS_PER_PEER_MAX} requests of it are open here"
        return (
            [Noticed(guest, "asks for more than it may", full)] if self._is_full_of(guest) else []
        )

    def begins(self, job: Job, tokens: int, now: float) -> HearthError | None:
        """A job is to be computed here, and takes so many tokens. Why it may not, if so."""
        if self._quota is None or job.upstream is None:
            return None
        wait_s = self._quota.reserve(job.upstream, job.request_id, tokens, now)
        return self._noted(self._used_up(wait_s, tokens))

    def computes(self, job: Job, event: RequestEvent, now: float) -> HearthError | None:
        """The engine tells of a job. Why it must not go on, if so; then the event counts not."""
        if self._quota is None or job.upstream is None:
            return None
        match event:
            case Started(cached_tokens=cached):
                assert job.tokens is not None, "the engine got tokens"
                tokens = max(0, len(job.tokens) + len(job.generated) - cached)
            case Chunk(tokens=new):
                tokens = len(new)
            case _:
                return None
        wait_s = self._quota.spend(job.request_id, tokens, now)
        return self._noted(self._used_up(wait_s, tokens))

    def ended(self, request_id: bytes) -> None:
        """A job is over. Idempotent."""
        if request_id in self._guest_of:
            guest, tokens = self._guest_of.pop(request_id)
            self._open[guest] -= 1
            self._tokens[guest] -= tokens
            if not self._open[guest]:
                del self._open[guest], self._tokens[guest]
        if self._quota is not None:
            self._quota.release(request_id)

    # --- What is told -----------------------------------------------------------------------------

    @property
    def guests(self) -> int:
        """Requests of other members that are open here."""
        return len(self._guest_of)

    @property
    def places(self) -> int | None:
        """How many more requests of guests would be taken now; None: no bound."""
        if self.terms.guest_requests is None:
            return None
        return max(0, self.terms.guest_requests - self.guests)

    def spent(self, now: float) -> dict[PeerId, int]:
        """Tokens that each guest has had within the last minute; without a quota, none counts."""
        return {} if self._quota is None else self._quota.spent(now)

    # --- Within -----------------------------------------------------------------------------------

    def _unwelcome(self, job: Job, *, private: bool) -> HearthError | None:
        guest, tokens = job.upstream, _tokens_of(job)
        assert guest is not None, "the owner's are never unwelcome"
        if self.paused:
            return paused()
        if private:
            return ModelNotFound("no such model is served here")
        if self._is_full_of(guest):
            return Overloaded(
                "a friend's node has "
                f"{OPEN_REQUESTS_PER_PEER_MAX} requests of yours open: wait for one to end"
            )
        if (
            self._tokens.total() + tokens > GUESTS_TOKENS_MAX
            and self._tokens[guest] + tokens > GUESTS_TOKENS_MAX // MEMBERS_MAX
        ):
            return Overloaded(
                "a friend's node has as many long prompts of guests as it can keep: ask elsewhere, "
                "or wait for one of them to be answered"
            )
        if self.places == 0:
            return Overloaded(
                "a friend's node takes no more requests of guests now: ask elsewhere, or wait for "
                "one of them to end"
            )
        return None

    def _is_full_of(self, guest: PeerId) -> bool:
        return self._open[guest] >= OPEN_REQUESTS_PER_PEER_MAX

    def _used_up(self, wait_s: float, tokens: int) -> QuotaUsedUp | None:
        if not wait_s:
            return None
        granted = f"a friend's node grants you {self.terms.guest_tokens_per_minute} tokens a minute"
        if wait_s == math.inf:
            return QuotaUsedUp(f"{granted}, and this takes {tokens}: shorten it, or ask elsewhere")
        error = QuotaUsedUp(f"{granted}: ask elsewhere, or again in {math.ceil(wait_s)} s")
        error.retry_after_s = wait_s
        return error

    def _noted(self, error: HearthError | None) -> HearthError | None:
        if error is not None:
            self.refused[error.code] += 1
        return error


def paused() -> Paused:
    """What a guest is told, whose screen does not show which node says so."""
    return Paused("a friend's node has been paused by its owner: ask elsewhere, or again later")


def _tokens_of(job: Job) -> int:
    """Of its prompt, and of its answer when it came. A character becomes a token at most."""
    written = sum(map(len, texts_of(job.prompt)))
    return len(job.tokens or ()) + len(job.generated) + written
