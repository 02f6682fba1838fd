"""An answer on its way upstream: to a local client as text, to a peer as acknowledged frames."""

from __future__ import annotations

import math
from dataclasses import replace

from models.engine import Chunk, Finished, FinishReason
from overlay.errors import (
    HearthError,
    LimitExceeded,
    Malformed,
    Overloaded,
    StreamReset,
    from_code,
    readable,
)
from overlay.forwarding.effects import Answer, Effect, Emit, Noticed, Send, TextDelta
from overlay.forwarding.explanations import Actual
from overlay.forwarding.inbound import check_tokens
from overlay.forwarding.job import Job, JobState
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    ANSWER_CHARS_MAX,
    FRAME_TOKENS_MAX,
    HOP_LIMIT_MAX,
    LOGPROBS_MAX,
    PROMPT_TOKENS_MAX,
    QUOTA_WINDOW_S,
    STREAM_WINDOW_FRAMES,
    TOKEN_CHARS_MAX,
)
from overlay.wire.messages import Accepted, Begun, Completed, Refused, StreamAck, TokenFrame

#: Acknowledge this often: well within the sender's window, and few messages.
_ACK_EVERY_FRAMES = STREAM_WINDOW_FRAMES // 4


def refused(to: PeerId, request_id: bytes, error: HearthError) -> Send:
    """The request is not, or no longer, served here."""
    retry_after_ms = math.ceil(1000 * error.retry_after_s)
    return Send(to, Refused(request_id, error.code, str(error), retry_after_ms))


def open_already(sender: PeerId, request_id: bytes) -> list[Effect]:
    """A peer brings a request whose id another's has, which is open here.

    It hears so: somebody else may have brought the other one to have this node taken for silent.
    """
    error = Overloaded("a request with this id is open here already")
    noticed = Noticed(sender, "brings requests again", "one is open here already")
    return [noticed, refused(sender, request_id, error)]


def error_of(message: Refused) -> HearthError:
    """What a peer's refusal says; its words, which are remembered, are held within bounds, and so
    is how long it asks to be left alone."""
    error = from_code(message.code, readable(message.message))
    error.retry_after_s = min(max(0.0, message.retry_after_ms / 1000), QUOTA_WINDOW_S)
    return error


def check_accepted(me: PeerId, job: Job, message: Accepted) -> None:
    """Raises Malformed for an executor, behind this node, that cannot be."""
    if message.executor in (me, *job.path):
        raise Malformed("a request visits no node twice")
    if not len(job.path) < message.hops <= HOP_LIMIT_MAX:
        raise Malformed(f"a request takes a hop at least, and {HOP_LIMIT_MAX} at most")


def accepted(job: Job, message: Accepted) -> list[Effect]:
    """An executor took the job; those upstream are told who, once."""
    if job.state is not JobState.DISPATCHED:
        return []  # Passed on again and again, it would be this node's flood.
    job.state = JobState.ACCEPTED
    job.executor = message.executor
    job.hops = message.hops
    return [] if job.upstream is None else [Send(job.upstream, message)]


def begun(job: Job, cached_tokens: int, queue_ms: float) -> list[Effect]:
    """The job left the executor's queue; those upstream are told, once."""
    if job.state is not JobState.ACCEPTED:
        return []
    job.state = JobState.BEGUN
    if job.upstream is None:
        return []
    return [Send(job.upstream, Begun(job.request_id, cached_tokens, queue_ms))]


def progress(job: Job, new: Chunk | TokenFrame, now: float) -> list[Effect]:
    """New tokens from downstream."""
    job.state = JobState.STREAMING
    job.generated += new.tokens
    if job.upstream is None:
        job.delivered_chars += len(new.text)
        if not new.text and not new.logprobs:
            return []
    elif not new.text and not new.tokens:
        return []  # A peer may say nothing for ever, and this node would for it.
    if job.first_there_at is None:
        job.first_there_at = now
    if job.first_token_at is None:
        job.first_token_at = now
    if job.upstream is None:
        return [Emit(job.request_id, TextDelta(new.text, new.logprobs))]
    assert job.window is not None, "a job with a peer upstream has a window"
    return [Send(job.upstream, frame) for frame in job.window.push(new)]


def not_taken(job: Job) -> tuple[Noticed, HearthError] | None:
    """Why the answer ends before its time, if it must: nobody takes it."""
    if job.window is None or not job.window.overflows:
        return None
    assert job.upstream is not None, "a window is to a peer"
    slow = Noticed(job.upstream, "takes its answers too slowly", "too much of one waits")
    return slow, Overloaded("too much of the answer waited to be acknowledged")


def frame(job: Job, sender: PeerId, message: TokenFrame, now: float) -> list[Effect]:
    """A frame from a peer; one that was seen before is only acknowledged again.

    Raises Malformed or LimitExceeded for more than was asked for.
    """
    if message.seq < job.frames_in:
        return [_ack(job, sender, message)]
    check_tokens(message.tokens)
    _check_length(job, message)
    if message.logprobs or job.sampling.logprobs is not None:
        _check_logprobs(job, message)
    job.frames_in += 1
    job.chars_in += len(message.text)
    effects = progress(job, message, now)
    if job.frames_in % _ACK_EVERY_FRAMES == 0:
        effects.append(_ack(job, sender, message))
    return effects


def _ack(job: Job, sender: PeerId, message: TokenFrame) -> Send:
    return Send(sender, StreamAck(job.request_id, message.seq))


def _check_length(job: Job, message: TokenFrame) -> None:
    """An answer that has no end would fill this node's memory, and its client's."""
    asked = job.sampling.max_tokens
    tokens_max = PROMPT_TOKENS_MAX if asked is None else min(asked, PROMPT_TOKENS_MAX)
    tokens = len(job.generated) + len(message.tokens)
    if tokens > tokens_max:
        raise LimitExceeded(f"an answer has more than the {tokens_max} tokens that it may have")
    chars = job.chars_in + len(message.text)
    if chars > TOKEN_CHARS_MAX * (tokens + 1):
        raise LimitExceeded(f"a token has at most {TOKEN_CHARS_MAX} characters")
    if chars > ANSWER_CHARS_MAX:
        raise LimitExceeded(f"an answer has at most {ANSWER_CHARS_MAX} characters")


def _check_logprobs(job: Job, message: TokenFrame) -> None:
    asked = job.sampling.logprobs is not None
    if len(message.logprobs) != (len(message.tokens) if asked else 0):
        raise Malformed("a frame has as many log probabilities as tokens, if they were asked for")
    if len(message.logprobs) > FRAME_TOKENS_MAX:
        raise LimitExceeded(f"a frame has at most {FRAME_TOKENS_MAX} log probabilities")
    if any(len(each.top) > LOGPROBS_MAX for each in message.logprobs):
        raise LimitExceeded(f"a token has at most {LOGPROBS_MAX} alternatives")


def broken_off(job: Job, done: Completed) -> HearthError | None:
    """Why the answer is not whole, though a peer says that it has ended, if so."""
    if done.seq != job.frames_in:
        return StreamReset("frames were lost")
    if done.reason == FinishReason.CANCELLED:  # Its client did not, or the job would be gone.
        return StreamReset("the peer cancelled the answer")
    return None


def completed_of(job: Job, event: Finished) -> Completed:
    """The wire form of an engine's Finished (``seq`` is filled in on sending)."""
    return Completed(
        request_id=job.request_id,
        seq=0,
        reason=event.reason,
        prompt_tokens=event.prompt_tokens,
        cached_tokens=event.cached_tokens,
        completion_tokens=event.completion_tokens,
        queue_ms=event.queue_ms,
        prefill_ms=event.prefill_ms,
        decode_ms=event.decode_ms,
    )


def completed(job: Job, done: Completed, now: float) -> list[Effect]:
    """The answer is whole: explain how it came about, and tell those upstream.

    Raises Malformed for a finish reason that is none, and for counts and times that cannot be.
    """
    try:
        reason = FinishReason(done.reason)
    except ValueError:
        raise Malformed(f"{done.reason[:20]!r} is no finish reason") from None
    counts = (done.prompt_tokens, done.cached_tokens, done.completion_tokens)
    if min(*counts, done.queue_ms, done.prefill_ms, done.decode_ms) < 0:
        raise Malformed("an answer took less than nothing")
    if max(counts) > 2 * PROMPT_TOKENS_MAX:
        raise LimitExceeded(f"a prompt has at most {PROMPT_TOKENS_MAX} tokens")
    done = _counted(job, done, now)
    actual = _actual(job, done, now)
    job.explanation.answered(actual)
    if job.upstream is not None:
        assert job.window is not None, "a job with a peer upstream has a window"
        effects: list[Effect] = [Send(job.upstream, f) for f in job.window.flush()]
        last = replace(done, seq=job.window.sent)
        return [*effects, Send(job.upstream, last)]
    assert job.decision is not None, "an answer was routed"
    answer = Answer(
        reason=reason,
        prompt_tokens=actual.prompt_tokens,
        cached_tokens=actual.cached_tokens,
        completion_tokens=actual.completion_tokens,
        served_by=actual.executor,
        hops=actual.hops,
        route=actual.route,
        ttft_ms=actual.ttft_ms,
        queue_ms=actual.queue_ms,
        prefill_ms=actual.prefill_ms,
        rtt_ms=job.rtt_ms,
        decision=job.decision,
        explanation=job.explanation,
    )
    return [Emit(job.request_id, answer)]


def _counted(job: Job, done: Completed, now: float) -> Completed:
    """What the executor says, but for what this node counted itself: a client may be charged."""
    prompt_tokens = done.prompt_tokens if job.tokens is None else len(job.tokens)
    most_ms = (now - job.submitted_at) * 1000
    return replace(
        done,
        prompt_tokens=prompt_tokens,
        # A failed-over request's prompt includes emitted tokens; only prompt tokens count here.
        cached_tokens=min(done.cached_tokens, prompt_tokens),
        completion_tokens=len(job.generated),
        queue_ms=min(done.queue_ms, most_ms),
        prefill_ms=min(done.prefill_ms, most_ms),
        decode_ms=min(done.decode_ms, most_ms),
    )


def _actual(job: Job, done: Completed, now: float) -> Actual:
    assert job.executor is not None, "an answer has an executor"
    first = job.first_token_at if job.first_token_at is not None else now
    return Actual(
        executor=job.executor,
        hops=job.hops,
        route=_route_of(job),
        prompt_tokens=done.prompt_tokens,
        cached_tokens=done.cached_tokens,
        completion_tokens=done.completion_tokens,
        ttft_ms=(first - job.submitted_at) * 1000,
        queue_ms=done.queue_ms,
        prefill_ms=done.prefill_ms,
        decode_ms=done.decode_ms,
        total_ms=(now - job.submitted_at) * 1000,
    )


def _route_of(job: Job) -> str:
    if job.failed_over:
        return "failed-over"
    return "forwarded" if job.hops else "local"
