"""Whether guests' requests are computed here: the owner's word, applied to each as it comes.

A guest is the member whose link brought the request, never a name in it. What is refused is not
passed on: the third node would count it as this node's.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

from models.engine import Chunk, RequestEvent, Started, texts_of
from overlay.errors import EngineFailed, HearthError, ModelNotFound, Overloaded, Paused, QuotaUsedUp
from overlay.forwarding.effects import Noticed
from overlay.forwarding.enders import Enders
from overlay.forwarding.guest_places import GuestPlaces
from overlay.forwarding.job import Job
from overlay.forwarding.terms import Terms, TokenQuota
from overlay.identity.peer_id import PeerId
from overlay.limits import GUESTS_TOKENS_MAX, MEMBERS_MAX, OPEN_REQUESTS_PER_PEER_MAX

#: What a request takes in tokens of a prompt, however short it is: some 10 kB, and with all the
#: decisions that are made for it where it is refused again and again, five times as much.
REQUEST_TOKENS: Final = 1024
#: What a token's bias takes.
_BIAS_TOKENS: Final = 3


@dataclass(slots=True)
class _Open:
    """A guest's request that is open here. ``branch``: see `models.engine.Client`."""

    guest: PeerId
    branch: bytes
    #: That are kept of what it brought, and of it altogether.
    brought: int
    tokens: int


class Lending:
    """What a node's owner grants to guests; the owner's own requests are never refused here."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._requests: dict[bytes, _Open] = {}
        #: How many each guest has.
        self._open: Counter[PeerId] = Counter()
        #: The tokens that are kept of each guest's, of each branch's, and of all.
        self._tokens: Counter[PeerId] = Counter()
        self._branches: Counter[bytes] = Counter()
        self._all_tokens = 0
        #: Takes no new requests of guests.
        self.paused = False
        #: How often a guest was refused, by the code of the error.
        self.refused: Counter[str] = Counter()
        per_minute = terms.guest_tokens_per_minute
        self._quota = None if per_minute is None else TokenQuota(per_minute)
        self._places = GuestPlaces(terms.guest_requests)
        self._enders = Enders()

    # --- A guest's request ------------------------------------------------------------------------

    def arrives(self, job: Job, *, private: bool) -> HearthError | None:
        """Why a guest's job may not come in now, if so. ``private``: its model is."""
        return self._noted(self._unwelcome(job, private=private))

    def admitted(self, job: Job) -> None:
        """A job is open here from now on, until it has `ended`."""
        if job.upstream is not None:
            tokens = _tokens_of(job)
            opened = _Open(job.upstream, job.client[0], tokens - len(job.generated), 0)
            self._requests[job.request_id] = opened
            self._open[job.upstream] += 1
            self._places.take(job.request_id, job.client)
            self._keep(opened, tokens)

    def outgrown(self, job: Job) -> tuple[Noticed, HearthError] | None:
        """More of an answer came. Why the job must end, if it must: too much is kept of guests'."""
        opened = self._requests.get(job.request_id)
        if opened is None:
            return None
        waiting = 0 if job.window is None else job.window.waiting_chars
        more = opened.brought + len(job.generated) + waiting - opened.tokens
        if more > 0 and self._too_much(opened.guest, opened.branch, more):
            return (
                Noticed(opened.guest, "has more answered than this node can keep", "at one time"),
                _full_of_tokens(),
            )
        self._keep(opened, opened.tokens + more)
        return None

    def noticed(self, guest: PeerId) -> list[Noticed]:
        """What is to be said of a guest that was refused."""
        full = f"{OPEN_REQUESTS_PER_PEER_MAX} requests of it are open here"
        return (
            [Noticed(guest, "asks for more than it may", full)] if self._is_full_of(guest) else []
        )

    def begins(self, job: Job, prompt: int, answer: int, now: float) -> HearthError | None:
        """A job is to be computed here. Why it may not, if so.

        ``prompt``: the tokens that it takes in any case. ``answer``: and perhaps these, which is
        a guess, from answers that others brought: it refuses nobody for good.
        """
        if job.upstream is None:
            return None
        if job.sampling.has_grammar and self._enders.waits(job.client[0], now):
            return self._noted(_without_grammars())
        if self._quota is None:
            return None
        tokens = max(prompt + 1, min(prompt + answer, self._quota.per_minute))
        wait_s = self._quota.reserve(job.upstream, job.request_id, tokens, now)
        return self._noted(self._used_up(wait_s, tokens))

    def computes(self, job: Job, event: RequestEvent, now: float) -> HearthError | None:
        """The engine tells of a job. Why it must not go on, if so; then the event counts not."""
        if job.upstream is None or self._quota is None:
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

    def failed(self, job: Job, code: str, now: float) -> None:
        """The engine failed at a job, with this code, though it may be over: who takes back what
        ends an engine has ended it all the same."""
        if job.upstream is not None and code == EngineFailed.code and job.sampling.has_grammar:
            self._enders.failed(job.client[0], now)

    def ended(self, request_id: bytes) -> None:
        """A job is over. Idempotent."""
        if (over := self._requests.pop(request_id, None)) is not None:
            self._keep(over, 0)
            self._open[over.guest] -= 1
            if not self._open[over.guest]:
                del self._open[over.guest], self._tokens[over.guest]
            if not self._branches[over.branch]:
                del self._branches[over.branch]
        self._places.back(request_id)
        if self._quota is not None:
            self._quota.release(request_id)

    # --- What is told -----------------------------------------------------------------------------

    @property
    def guests(self) -> int:
        """Requests of other members that are open here."""
        return len(self._requests)

    @property
    def places(self) -> int | None:
        """How many more requests of guests may be open; None: no bound."""
        return self._places.free

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
        if self._too_much(guest, job.client[0], tokens):
            return _full_of_tokens()
        if self._places.refuses(job.client, job.submitted_at):
            return Overloaded(
                "a friend's node takes no more requests of guests now: ask elsewhere, or wait for "
                "one of them to end"
            )
        return None

    def _too_much(self, guest: PeerId, branch: bytes, more: int) -> bool:
        """Whether so many tokens more of a guest's are more than can be kept."""
        kept, share = self._all_tokens + more, GUESTS_TOKENS_MAX // MEMBERS_MAX
        if kept <= GUESTS_TOKENS_MAX or self._tokens[guest] + more <= share:
            return False
        # One branch's crowd has not filled what is there for the others.
        most = max(self._branches.values(), default=0)
        return kept > 2 * GUESTS_TOKENS_MAX or self._branches[branch] + more > most

    def _keep(self, opened: _Open, tokens: int) -> None:
        more, opened.tokens = tokens - opened.tokens, tokens
        self._tokens[opened.guest] += more
        self._branches[opened.branch] += more
        self._all_tokens += more

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


def _full_of_tokens() -> Overloaded:
    return Overloaded(
        "a friend's node has as many long prompts and answers of guests as it can keep: ask "
        "elsewhere, or wait for one of them to end"
    )


def _without_grammars() -> Overloaded:
    return Overloaded(
        "a friend's node takes no grammars or JSON schemas of yours for a while, as its engine "
        "ended while it had one: ask elsewhere, or again later"
    )


def _tokens_of(job: Job) -> int:
    """Of its prompt, of its answer when it came, and what else it takes.

    A character becomes a token at most.
    """
    sampling = job.sampling
    texts = (*texts_of(job.prompt), sampling.grammar, sampling.json_schema, *sampling.stop)
    biases = _BIAS_TOKENS * len(sampling.logit_bias)
    tokens = len(job.tokens or ()) + len(job.generated)
    return REQUEST_TOKENS + tokens + sum(map(len, texts)) + biases
