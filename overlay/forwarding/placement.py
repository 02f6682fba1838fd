"""Where a job goes: the candidates for it, the choice, and the message that takes it there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from models.engine import GenerationRequest, Priority, Sampling, Tokens, goes_by, texts_of
from overlay.errors import ContextLengthExceeded, HearthError, ModelNotFound, NoRoute
from overlay.forwarding.answers import AnswerLengths
from overlay.forwarding.effects import (
    CancelGeneration,
    Effect,
    Generate,
    Remember,
    Tokenize,
    Weighed,
)
from overlay.forwarding.job import Broken, Expected, Job
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.forwarding.passing import Passing, enough_passed_on
from overlay.forwarding.punctuality import Punctuality
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    ACCEPT_S,
    CANDIDATES_PER_MESSAGE,
    OPEN_REQUESTS_PER_PEER_MAX,
    RELINK_S,
    STREAM_STALL_S,
)
from overlay.prefix.chain import block_hashes
from overlay.routing.cost import READING_MS, Candidate
from overlay.routing.ledger import NEWS_LAG_S, OWN_NEWS_LAG_S, Ledger
from overlay.routing.policy import Policy, Question
from overlay.wire.messages import Forward

#: Characters per token, roughly, where a prompt cannot be tokenized here.
_CHARS_PER_TOKEN = 4
#: Tokens that a template adds to a conversation, and to each of its turns, at most; all others
#: stand for a byte or more.
_TEMPLATE_TOKENS_MAX = 1024
_TURN_TOKENS_MAX = 32
#: After so many have failed with a request, only those are asked who answered the latest one that
#: they were asked: a member can bring in hundreds who refuse, and each takes a decision.
_FAILURES_MAX = 8
#: Whose link breaks oftener, and brought no token in between, is not asked again: the job may be
#: what breaks it. Once does not tell: if the ends hear of a relay's end one after the other, the
#: link that the first of them has made since ends, too.
_BREAKS_MAX = 2
#: Between two looks whether somebody has a link again.
_LOOK_AGAIN_S = 0.2


class Placement:
    """Routing as a job needs it: exact knowledge of this node, estimates of the others."""

    def __init__(
        self,
        me: PeerId,
        neighbourhood: Neighbourhood,
        ledger: Ledger,
        mesh_secret: bytes,
        policy: Policy,
        jobs: Mapping[bytes, Job],
    ) -> None:
        """``jobs``: all that are open."""
        self._me = me
        self._jobs = jobs
        self._neighbourhood = neighbourhood
        self._ledger = ledger
        self.punctuality = Punctuality(me)
        self._passing = Passing(jobs)
        self._mesh_secret = mesh_secret
        self._policy = policy
        self._answers = AnswerLengths()

    def prepare(self, job: Job) -> Tokenize | None:
        """What is to be done before it is decided where the job goes, if anything is.

        The model here takes it in tokens of its own, if it can take it at all. That model may have
        come, or gone, since the job did.
        """
        local = self._neighbourhood.resolve(job.model)
        if local is None or self._me in job.tried:
            return None
        if job.upstream is not None and local.private:
            job.tried.add(self._me)
            return None
        same_key = job.model_key == local.info.key
        if job.tokens is not None and same_key:
            if not job.hashes:
                self.know_tokens(job, job.tokens)
            return None
        # An answer that was begun by a model with another tokenizer cannot go on here.
        if job.prompt is None or (job.generated and not same_key):
            return None
        job.model_key = local.info.key
        job.here = CancelGeneration(local.info.name, job.request_id)
        return Tokenize(job.request_id, local.info.name, job.prompt, job.client)

    def know_tokens(self, job: Job, tokens: Tokens) -> None:
        """The model here, unless it is another by now, makes these of the job's prompt."""
        local = self._neighbourhood.resolve(job.model)
        if local is not None and job.model_key == local.info.key:
            job.tokens = tokens
            job.hashes = block_hashes(self._mesh_secret, local.info.key, tokens)
            job.longer_than = len(tokens)

    def failed_at(
        self, job: Job, peer: PeerId, error: HearthError, now: float, *, lost: bool
    ) -> None:
        """The job is not to go to this node again, unless but the link to it was ``lost``."""
        self.punctuality.let_down(job, now, lost=lost)
        if lost:
            before, times = job.lost.get(peer, (0, 0))
            times = 1 if before < len(job.generated) else times + 1
            if times <= _BREAKS_MAX:
                job.lost[peer] = Broken(len(job.generated), times)
                return
        if job.hopes_until > -math.inf and isinstance(error, ModelNotFound | NoRoute):
            job.not_ready.add(peer)
            return
        job.tried.add(peer)
        job.hopes_until = -math.inf
        card = self._neighbourhood.card_of(peer, job.model)
        # Where the prompt's tokens were counted, it is known anyway where there is room for them.
        if isinstance(error, ContextLengthExceeded) and job.tokens is None and card is not None:
            too_short = min(card.context_length, _tokens_most(job))
            job.longer_than = max(job.longer_than, too_short)

    def _remembered(self, job: Job) -> list[Effect]:
        """The conversation may come back, with what was delivered of its answer."""
        local = self._neighbourhood.resolve(job.model)
        if job.prompt is None or job.tokens is None or not job.generated:
            return []
        if local is None or job.model_key != local.info.key:
            return []
        return [Remember(local.info.name, job.tokens, tuple(job.generated))]

    def afterwards(self, job: Job, now: float) -> list[Effect]:
        """What is still to be done for a job that has its whole answer."""
        self._answers.ended(job)
        self.punctuality.waited(job, now)
        return [*self._remembered(job), *self._prefetch(job)]

    def dropped(self, job: Job, now: float) -> list[Effect]:
        """What is still to be done for a job whose answer nobody waits for any more."""
        self.punctuality.waited(job, now)
        return self._remembered(job)

    def prompt_length(self, job: Job) -> int:
        """Tokens to have in the cache before the next one of the answer, if need be by a guess."""
        if job.tokens is not None:
            return len(job.tokens) + len(job.generated)
        return sum(map(len, texts_of(job.prompt))) // _CHARS_PER_TOKEN

    def tokens_left(self, job: Job, match_tokens: int) -> tuple[int, int]:
        """Tokens that are to be computed for it, where so many of its prompt are cached: of the
        prompt, and as is to be expected, of the answer."""
        return self.prompt_length(job) - match_tokens, self._answers.left(job)

    def choose(self, job: Job, now: float) -> Candidate | None:
        """Decide where the job costs least, and book it there. None: nobody can take it."""
        candidates = self._candidates(job, now)
        # That there is nobody takes a look at all models of all peers.
        job.candidates = len(candidates) or 2 * len(self._neighbourhood.neighbours)
        if not candidates:
            return None
        length = self.prompt_length(job)
        question = Question(
            prompt_tokens=length,
            hashes=job.hashes,
            answer_tokens=self._answers.left(job),
            forwarded=job.upstream is not None,
        )
        job.decision = self._policy.decide(question, candidates, now)
        chosen = next(c for c in candidates if c.peer == job.decision.choice)
        estimated = job.decision.chosen
        job.expected = Expected(
            at_s=now,
            ttft_ms=estimated.ttft_ms - chosen.late_ms,
            token_ms=READING_MS + estimated.decode_ms / question.answer_tokens,
            generated=len(job.generated),
        )
        uncached = max(0, length - chosen.match_tokens)
        self._ledger.dispatched(
            chosen.peer,
            job.request_id,
            uncached,
            now,
            guest=question.forwarded,
            lag_s=OWN_NEWS_LAG_S if chosen.is_self else NEWS_LAG_S + chosen.rtt_ms / 1000,
        )
        return chosen

    def weighed(self, job: Job) -> list[Effect]:
        """What the decision counts, if it was for a guest."""
        messages = job.candidates // CANDIDATES_PER_MESSAGE
        return [] if job.upstream is None or not messages else [Weighed(job.upstream, messages)]

    def again_at(self, job: Job, now: float) -> float | None:
        """When to look again for somebody who takes the job; None: nobody is to be expected.

        Those are whose links broke a moment ago, or are new. Only the origin waits for them: those
        between it and an executor are not waited for so long.
        """
        if job.upstream is not None or _stays(job) or self._neighbourhood.outcast:
            return None
        servers = self._neighbourhood.servers
        since = servers.awaited_since(job.model, job.tried, job.key_needed)
        # One that was started anew is unknown for a moment.
        job.hopes_until = max(job.hopes_until, since + RELINK_S)
        job.not_ready.clear()
        return now + _LOOK_AGAIN_S if now < job.hopes_until else None

    def others(self, job: Job, now: float) -> bool:
        """Whether somebody else than its downstream could take the job, and would be asked."""
        willing = self._willing(self._serving(job, now), now)
        return any(candidate.peer != job.downstream for candidate in willing)

    def patience_s(self, job: Job, *, began: bool = False) -> float:
        """How long its downstream may take for its next step: its turn, the first token.

        ``began``: each further token. Where others are between this node and the executor, they
        are to lose their patience first, each in its turn, and to say so.
        """
        cost_ms = job.decision.chosen.cost_ms if job.decision and not began else 0.0
        between = max(0, job.hops - len(job.path) - 1)
        return max(STREAM_STALL_S, 4 * cost_ms / 1000) + ACCEPT_S * between

    def forward_of(self, job: Job, chosen: Candidate, now: float) -> Forward:
        """The message that hands the job to a peer: tokens, if they mean the same there."""
        same_key = job.tokens is not None and self.key_at(chosen.peer, job.model) == job.model_key
        card = self._neighbourhood.card_of(chosen.peer, job.model)
        job.answers_in = None if card is None else card.key
        forward = Forward(
            request_id=job.request_id,
            model=job.model,
            model_key=job.model_key,
            tokens=job.tokens if same_key else None,
            prompt=None if same_key else job.prompt,
            generated=tuple(job.generated),
            delivered_chars=job.delivered_chars,
            sampling=job.sampling,
            path=(*job.path, self._me),
            # After a refusal, whoever takes it keeps it: passing it on to who has just refused it
            # would charge another's account for it there.
            hop_limit=0 if job.tried or job.lost or job.passed_over else job.hop_limit - 1,
            deadline_ms=max(1, round((job.deadline - now) * 1000)),
            estimated_match=chosen.match_tokens,
        )
        if job.upstream is not None:
            self._passing.passed(chosen.peer, forward, now)
        return forward

    def answer_begins(self, job: Job) -> None:
        """An answer comes: unless some of it came before, it shows what the prompt became.

        A prompt may go as text to a model with another tokenizer that answers to the same alias.
        """
        if job.generated:
            return
        assert job.executor is not None, "it accepted the job"
        card = self._neighbourhood.card_of(job.executor, job.model)
        passed_on = job.executor != job.downstream
        key = card.key if passed_on and card is not None else job.answers_in
        if key != job.model_key:
            job.model_key, job.tokens, job.hashes = key, None, ()

    def key_at(self, peer: PeerId, model: str) -> bytes | None:
        """Key of the model that answers to this name at a node, if tokens mean the same there."""
        if peer == self._me:
            local = self._neighbourhood.resolve(model)
            return None if local is None else local.info.key
        card = self._neighbourhood.card_of(peer, model)
        if card is None or self._neighbourhood.tokenizes_unlike(peer, model):
            return None
        return card.key

    def nobody(self, job: Job) -> HearthError:
        """Why there is no candidate, for people."""
        here = self._neighbourhood.models_for(guest=job.upstream is not None)
        cards = self._neighbourhood.offers().items()
        offered = {each.info.name: each.info.aliases for each in here}
        offered |= {name: next(iter(served.values())).aliases for name, served in cards}
        known = any(goes_by(job.model, name, aliases) for name, aliases in offered.items())
        context = self._neighbourhood.longest_context(job.model, here_only=_stays(job))
        if 0 < context <= job.longer_than:
            return ContextLengthExceeded(
                f"The prompt has {job.longer_than} tokens; the model's context holds {context}, "
                "and the answer needs some of them."
            )
        lost = self._neighbourhood.why_lost(job.model)
        if lost and job.upstream is None:  # a path on this machine is nobody else's business
            return NoRoute(f"this node does not serve {job.model!r} now: {lost}")
        few = self._neighbourhood.why_few()
        if not offered:
            return NoRoute.to_any_model(few)
        if job.local_only and known:
            return NoRoute(
                f"this node does not serve {job.model!r}: start it with --model, or ask the mesh"
            )
        if known:
            return NoRoute(f"no reachable node can take a request for {job.model!r} now{few}")
        return ModelNotFound.named(job.model, offered, few)

    def _prefetch(self, job: Job) -> list[Effect]:
        """Compute here what the peer that answered had cached, if the decision was for that.

        The engine does it in time that is spare, so that neither the owner nor friends wait for it;
        nobody listens to its answer. Its id is one that no request of a peer can have.
        """
        if not job.decision or not job.decision.prefetch_tokens:
            return []
        local = self._neighbourhood.resolve(job.model)
        if local is None or job.tokens is None:
            return []
        tokens = job.tokens[: job.decision.prefetch_tokens]
        self._neighbourhood.prompt_runs(local.info.name, job.hashes)
        request = GenerationRequest(
            request_id=job.request_id + b"prefetch",
            tokens=tokens,
            sampling=Sampling(max_tokens=1),
            priority=Priority.SPARE,
            client=(bytes(self._me),),
        )
        return [Generate(local.info.name, request)]

    def _serving(self, job: Job, now: float) -> list[Candidate]:
        if job.tokens_only and job.model_key is None:
            return []  # Tokens mean something only to the tokenizer that made them.
        return self._neighbourhood.candidates(
            job.model,
            job.hashes,
            now,
            exclude={*job.tried, *job.not_ready, *job.path},
            key=job.key_needed,
            here_only=_stays(job),
            longer_than=job.longer_than,
        )

    def _candidates(self, job: Job, now: float) -> list[Candidate]:
        found = self._serving(job, now)
        if found and job.upstream is not None:
            found = self._passing.allowed(found, now)
            job.last_error = job.last_error or (None if found else enough_passed_on())
        left_alone = self.punctuality.left_alone
        if len(job.tried) >= _FAILURES_MAX:
            found = [c for c in found if c.is_self or left_alone.answers(c.peer)]
        # The others are asked only if there is nobody else, now or once these have failed.
        willing = self._willing(found, now)
        known = [c for c in willing if c.is_self or not left_alone.doubts(c.peer, now)]
        asked = known or willing or found
        job.passed_over = len(asked) < len(found)
        return [self._with_pending(c, now) for c in asked]

    def _full_of_ours(self) -> set[PeerId | None]:
        """The peers that have as many requests of this node open as they take of one member."""
        if len(self._jobs) <= OPEN_REQUESTS_PER_PEER_MAX:
            return set()
        asked = Counter(job.downstream for job in self._jobs.values())
        del asked[self._me]
        return {peer for peer, count in asked.items() if count >= OPEN_REQUESTS_PER_PEER_MAX}

    def _willing(self, found: Sequence[Candidate], now: float) -> list[Candidate]:
        """Those that will not refuse, as far as one knows: a place may be free again by now."""
        full = self._full_of_ours()
        return [
            candidate
            for candidate in found
            if candidate.peer not in full
            and not self.punctuality.left_alone.has(candidate.peer, now)
            and not self._neighbourhood.is_full(candidate.peer)
        ]

    def _with_pending(self, candidate: Candidate, now: float) -> Candidate:
        """Add what we placed there since its last news, and what we know of its answers."""
        if late := self.punctuality.lateness.of(candidate.peer, now):
            candidate = candidate._replace(late_ms=late)
        pending = self._ledger.pending(candidate.peer, now)
        if not pending.requests:
            return candidate
        return candidate._replace(
            pending_prefill_tokens=candidate.pending_prefill_tokens + pending.prefill_tokens,
            queued=candidate.queued + pending.requests,
            pending_guest_tokens=candidate.pending_guest_tokens + pending.guest_tokens,
        )


def _stays(job: Job) -> bool:
    """Whether it may go to nobody else."""
    return job.local_only or job.hop_limit == 0


def _tokens_most(job: Job) -> int:
    """What a prompt that was not tokenized here has at most, with the answer so far."""
    texts = texts_of(job.prompt)
    tokens = sum(_TURN_TOKENS_MAX + len(text.encode(errors="replace")) for text in texts)
    return _TEMPLATE_TOKENS_MAX + tokens + len(job.generated)
