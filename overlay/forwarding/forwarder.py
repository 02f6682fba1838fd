"""A request's life across nodes: route, dispatch, stream, cancel, fail over.

One pure state machine per node serves three roles with the same code. The *origin* has a local
client upstream and keeps prompt and emitted tokens until the end, so that it can route again from
the next token. A *relay* has a peer on both sides. The *executor* has an engine downstream.

Every entry point takes ``now`` (seconds) and returns the effects to carry out, in order.
"""

from __future__ import annotations

from models.engine import Chunk, Failed, Finished, Prompt, RequestEvent, Sampling, Started, Tokens
from overlay.errors import (
    HearthError,
    InvalidRequest,
    PeerError,
    RemoteProtocolError,
    StreamReset,
    TimedOut,
    Unreachable,
    from_code,
)
from overlay.forwarding import stream
from overlay.forwarding.deadlines import Deadlines, accept_s
from overlay.forwarding.effects import Effect, Emit, Failure, ForwardingMessage, Noticed, Send
from overlay.forwarding.explanations import Explanations
from overlay.forwarding.hindsight import Hindsight
from overlay.forwarding.inbound import job_of_forward
from overlay.forwarding.job import UNANSWERED, Job, JobState
from overlay.forwarding.lending import Lending, paused
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.forwarding.placement import Placement
from overlay.forwarding.runs import Runs
from overlay.forwarding.terms import NO_BOUNDS, Terms
from overlay.identity.peer_id import PeerId
from overlay.limits import EXPLANATIONS_MAX, HOP_LIMIT_DEFAULT, REQUEST_DEADLINE_S
from overlay.routing.ledger import Ledger
from overlay.routing.policy import Policy
from overlay.wire.messages import (
    Accepted,
    Begun,
    Cancel,
    Completed,
    Forward,
    Message,
    Refused,
    StreamAck,
    TokenFrame,
)


class Forwarder:
    """All requests that this node has a part in."""

    def __init__(
        self,
        me: PeerId,
        neighbourhood: Neighbourhood,
        mesh_secret: bytes,
        policy: Policy,
        *,
        terms: Terms = NO_BOUNDS,
        explained_max: int = EXPLANATIONS_MAX,
    ) -> None:
        """``explained_max``: how many requests are remembered to be explained."""
        self.me = me
        self._neighbourhood = neighbourhood
        self._jobs: dict[bytes, Job] = {}
        self.deadlines = Deadlines(self._jobs)
        self.ledger = Ledger()
        self._placement = Placement(me, neighbourhood, self.ledger, mesh_secret, policy, self._jobs)
        self.punctuality = self._placement.punctuality
        self.explanations = Explanations(explained_max)
        self.hindsight = Hindsight()
        self.lending = Lending(terms)
        self._runs = Runs()

    # --- Entry points -------------------------------------------------------------------------

    def submit(
        self,
        request_id: bytes,
        model: str,
        prompt: Prompt,
        sampling: Sampling,
        now: float,
        *,
        local_only: bool = False,
    ) -> list[Effect]:
        """A local client asks; `Emit` effects tell it everything, ending with Answer or Failure."""
        job = Job(
            request_id=request_id,
            model=model,
            prompt=prompt,
            sampling=sampling,
            upstream=None,
            path=(),
            hop_limit=HOP_LIMIT_DEFAULT,
            submitted_at=now,
            deadline=now + REQUEST_DEADLINE_S,
            local_only=local_only,
        )
        return self._admit(job, now)

    def tokenized(
        self, request_id: bytes, result: Tokens | HearthError, now: float
    ) -> list[Effect]:
        """Answer to a Tokenize effect."""
        job = self._jobs.get(request_id)
        if job is None or job.state is not JobState.TOKENIZING:
            return []
        if isinstance(result, InvalidRequest):
            return self._fail(job, result)
        if isinstance(result, HearthError):
            job.last_error = result  # the model here is lost, not those elsewhere
            job.tried.add(self.me)
        else:
            self._placement.know_tokens(job, result)
        return self._route(job, now)

    def cancel(self, request_id: bytes, now: float) -> list[Effect]:
        """The local client hung up: stop everywhere."""
        job = self._jobs.get(request_id)
        return [] if job is None else self._drop(job, now)

    def receive(self, sender: PeerId, message: ForwardingMessage, now: float) -> list[Effect]:
        """A peer says something of a request. Raises RemoteProtocolError on a lie."""
        if isinstance(message, Forward):
            return self._on_forward(sender, message, now)
        job = self._jobs.get(message.request_id)
        if job is None:
            return []
        if sender == job.upstream:
            if isinstance(message, Cancel):
                return self._drop(job, now)
            if isinstance(message, StreamAck) and job.window is not None:
                return [Send(sender, frame) for frame in job.window.acknowledge(message.seq)]
        if sender == job.downstream:
            try:
                return self._on_downstream(job, sender, message, now)
            except RemoteProtocolError:
                # It is not asked for this again: its link ends now, but it may have another soon.
                job.tried.add(sender)
                raise
        if job.knows(sender):
            return []
        return [Noticed(sender, "meddles with others' requests", type(message).__name__)]

    def on_engine(self, event: RequestEvent, now: float) -> list[Effect]:
        """What a local engine tells of a request."""
        job = self._runs.told(event)
        if job is not None and isinstance(event, Failed):
            self.lending.failed(job, event.code, now)
        if job is None or self._jobs.get(job.request_id) is not job or job.downstream != self.me:
            return []
        if refusal := self.lending.computes(job, event, now):
            return [*self._stop_downstream(job), *self._fail(job, refusal)]
        match event:
            case Chunk():
                return self._streamed(job, job.state, stream.progress(job, event, now))
            case Started(cached_tokens=cached, queue_ms=queue_ms):
                return stream.begun(job, cached, queue_ms)
            case Finished():
                return self._complete(job, stream.completed_of(job, event), now)
            case Failed(code=code, message=text):
                return self._downstream_failed(job, from_code(code, text), now)

    def undeliverable(
        self, peer: PeerId, message: Message, now: float, error: HearthError | None = None
    ) -> list[Effect]:
        """A Send could not be carried out; None: the peer has no link, or its queue is full."""
        job = self._jobs.get(getattr(message, "request_id", b""))
        if job is None:
            return []
        if peer == job.downstream and isinstance(message, Forward):
            gone = error or Unreachable("the peer's link is down")
            return self._downstream_failed(job, gone, now, lost=error is None)
        return self._drop(job, now) if peer == job.upstream else []

    def peer_lost(
        self, peer: PeerId, now: float, *, link_only: bool = False, thrown_out: bool = False
    ) -> list[Effect]:
        """The peer is down, or but its link: fail over from it, drop what we compute for it."""
        effects: list[Effect] = []
        how = "was thrown out in mid-answer" if thrown_out else "went away in mid-answer"
        for job in list(self._jobs.values()):
            if job.downstream == peer:
                gone = Unreachable(f"{self._neighbourhood.name_of(peer)} {how}")
                effects += self._downstream_failed(job, gone, now, lost=link_only)
            elif job.upstream == peer:
                effects += self._drop(job, now)
        return effects

    def hand_back(self) -> list[Effect]:
        """Compute for no guest any more: their origins go on elsewhere, from the next token."""
        guests = [job for job in self._jobs.values() if job.upstream is not None]
        here = [job for job in guests if job.downstream in (None, self.me)]
        ended = [[*self._stop_downstream(job), *self._fail(job, paused())] for job in here]
        return [effect for effects in ended for effect in effects]

    def tick(self, now: float) -> list[Effect]:
        """Give up what has been waited for long enough."""
        effects: list[Effect] = []
        for job in self.deadlines.take(now):
            if now >= job.deadline:
                self.punctuality.waited(job, now)
                late = TimedOut(f"no whole answer within {now - job.submitted_at:.0f} s")
                effects += [*self._stop_downstream(job), *self._fail(job, late)]
            elif job.state is JobState.WAITING:
                effects += self._route(job, now)
            elif job.state in UNANSWERED and not self._placement.others(job, now):
                self.deadlines.wait(job, now + self._placement.patience_s(job))
            elif (again_at := self.punctuality.after_sleep(job, now)) is not None:
                self.deadlines.wait(job, again_at)
            else:
                silent = TimedOut("the peer that computed the answer fell silent")
                effects += self._give_up(job, silent, now)
        return effects

    def next_deadline(self) -> float:
        """When to call `tick` next; infinity if nothing waits."""
        return self.deadlines.next()

    @property
    def open_requests(self) -> int:
        return len(self._jobs)

    # --- Routing ------------------------------------------------------------------------------

    def _admit(self, job: Job, now: float) -> list[Effect]:
        self._jobs[job.request_id] = job
        self.lending.admitted(job)
        self.explanations.keep(job.explanation)
        return self._route(job, now)

    def _route(self, job: Job, now: float) -> list[Effect]:
        wanted = self._placement.prepare(job)
        if wanted is not None:
            job.state, job.downstream = JobState.TOKENIZING, None
            self.deadlines.wait(job, job.deadline)
            return [wanted]
        chosen = self._placement.choose(job, now)
        if chosen is None:
            again_at = self._placement.again_at(job, now)
            if again_at is None:
                # Whose membership was revoked has lost all peers by that.
                outcast = self._neighbourhood.outcast and isinstance(job.last_error, PeerError)
                known = None if outcast else job.last_error
                error = known or self._placement.nobody(job)
                return [*self._placement.weighed(job), *self._fail(job, error)]
            job.state, job.downstream = JobState.WAITING, None
            self.deadlines.wait(job, again_at)
            return []
        assert job.decision is not None, "a choice is a decision's"
        job.decision = job.explanation.decided(job.decision, self._neighbourhood, now)
        self.hindsight.decided(job.explanation)
        job.dispatch(chosen.peer, chosen.rtt_ms)
        weighed = self._placement.weighed(job)
        if chosen.is_self:
            return [*weighed, *self._run_here(job, chosen.match_tokens, now)]
        forward = self._placement.forward_of(job, chosen, now)
        self.deadlines.wait(job, now + accept_s(forward) + chosen.rtt_ms / 1000)
        return [*weighed, Send(chosen.peer, forward)]

    def _run_here(self, job: Job, match_tokens: int, now: float) -> list[Effect]:
        local = self._neighbourhood.resolve(job.model)
        assert local is not None, "chosen as a candidate"
        assert job.tokens is not None, "a local model has tokenized the prompt"
        expected = self._placement.tokens_left(job, match_tokens)
        refusal = self.lending.begins(job, *expected, now)
        if refusal is not None:
            return self._fail(job, refusal)
        self.deadlines.wait(job, job.deadline)
        self._neighbourhood.prompt_runs(local.info.name, job.hashes)
        accepted = Accepted(job.request_id, self.me, len(job.path), len(job.tokens))
        return [*stream.accepted(job, accepted), self._runs.begin(job, local.info.name)]

    # --- From upstream ------------------------------------------------------------------------

    def _on_forward(self, sender: PeerId, message: Forward, now: float) -> list[Effect]:
        client = self._neighbourhood.client_of(sender)
        job = job_of_forward(self.me, sender, client, message, now)
        effects: list[Effect] = []
        if before := self._jobs.get(message.request_id):
            if sender not in before.path:
                return stream.open_already(sender, message.request_id)
            # Whoever was between the sender and this node is gone, so it comes another way.
            effects, job.came_before_from = self._drop(before, now), before.upstream
        local = self._neighbourhood.resolve(job.model)
        refusal = self.lending.arrives(job, private=local is not None and local.private)
        if refusal is None:
            return [*effects, *self._admit(job, now)]
        effects.append(stream.refused(sender, message.request_id, refusal))
        return [*effects, *self.lending.noticed(sender)]

    # --- From downstream ----------------------------------------------------------------------

    def _on_downstream(
        self, job: Job, sender: PeerId, message: ForwardingMessage, now: float
    ) -> list[Effect]:
        if job.state is JobState.DISPATCHED and not isinstance(message, (Accepted, Refused)):
            # A broken link may have taken Accepted along. Else this is a lie, with the same end.
            early = Noticed(sender, "answers what it has not accepted", type(message).__name__)
            return [early, *self._give_up(job, StreamReset("messages were lost"), now)]
        match message:
            case TokenFrame(seq=seq):
                if seq > job.frames_in:
                    return self._give_up(job, StreamReset("frames were lost"), now)
                if seq == job.frames_in and message.tokens:
                    self.deadlines.wait(job, now + self._placement.patience_s(job, began=True))
                    self._placement.answer_begins(job)
                return self._streamed(job, job.state, stream.frame(job, sender, message, now))
            case Accepted():
                stream.check_accepted(self.me, job, message)
                news = job.state is JobState.DISPATCHED
                effects = stream.accepted(job, message)
                if news:
                    self.deadlines.wait(job, now + self._placement.patience_s(job))
                if message.executor != sender:
                    self.ledger.settled(job.request_id)  # the peer has passed it on
                return effects
            case Begun(cached_tokens=cached, queue_ms=queue_ms):
                if job.state is JobState.ACCEPTED:
                    self.deadlines.wait(job, now + self._placement.patience_s(job))
                return stream.begun(job, cached, queue_ms)
            case Completed():
                if (broken := stream.broken_off(job, message)) is not None:
                    return self._give_up(job, broken, now)
                self._placement.answer_begins(job)  # If it has no token, it does so here.
                effects = self._complete(job, message, now)
                self.punctuality.left_alone.answered(sender)
                return effects
            case Refused():
                error = stream.error_of(message)
                self.punctuality.left_alone.refused(sender, now + error.retry_after_s)
                return self._downstream_failed(job, error, now, refused=True)
        return []

    def _streamed(self, job: Job, before: JobState, effects: list[Effect]) -> list[Effect]:
        """Tokens came. They are the last if whoever asked leaves too many waiting, or has many."""
        if before is not JobState.STREAMING:
            self.ledger.answering(job.request_id)
        if (ends := stream.not_taken(job) or self.lending.outgrown(job)) is None:
            return effects
        noticed, error = ends
        return [*effects, noticed, *self._stop_downstream(job), *self._fail(job, error)]

    def _give_up(self, job: Job, error: HearthError, now: float) -> list[Effect]:
        """The tokens that we have are good, so go on from them."""
        return [*self._stop_downstream(job), *self._downstream_failed(job, error, now)]

    def _downstream_failed(
        self, job: Job, error: HearthError, now: float, *, refused: bool = False, lost: bool = False
    ) -> list[Effect]:
        assert job.downstream is not None, "only a dispatched job has a downstream"
        self.ledger.settled(job.request_id)
        hopeless = job.place_failed(error, here=job.downstream == self.me)
        taken = job.state is not JobState.DISPATCHED
        # Who says that those behind it failed may take it itself; a second time is not trusted.
        behind = job.executor if taken and refused and not job.failed_over else None
        self._placement.failed_at(job, behind or job.downstream, error, now, lost=lost)
        # Of whom took it those before this node know, and wait no longer for somebody else.
        relayed = job.upstream is not None and taken
        if relayed or hopeless:
            return self._fail(job, error)
        job.failed_over |= taken
        return self._route(job, now)

    # --- Endings ------------------------------------------------------------------------------

    def _complete(self, job: Job, done: Completed, now: float) -> list[Effect]:
        # First, for it may be a lie: then the job goes on elsewhere.
        effects = [*stream.completed(job, done, now), *self._placement.afterwards(job, now)]
        self._forget(job)
        self.hindsight.answered(job.explanation)
        return effects

    def _fail(self, job: Job, error: HearthError) -> list[Effect]:
        self._forget(job)
        job.explanation.failed(error)
        if job.upstream is None:
            return [Emit(job.request_id, Failure(error))]
        return [stream.refused(job.upstream, job.request_id, error)]

    def _drop(self, job: Job, now: float) -> list[Effect]:
        """Nobody waits for the answer any more."""
        self._forget(job)
        job.explanation.cancelled()
        return [*self._stop_downstream(job), *self._placement.dropped(job, now)]

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.request_id, None)
        self.lending.ended(job.request_id)
        self.ledger.settled(job.request_id)

    def _stop_downstream(self, job: Job) -> list[Effect]:
        if job.downstream is not None and job.downstream != self.me:
            job.tried.add(job.downstream)  # what it still sends must not be taken for a new answer
            return [Send(job.downstream, Cancel(job.request_id))]
        return [] if job.here is None else [job.here]
