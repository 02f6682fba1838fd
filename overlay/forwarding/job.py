"""One request in flight on one node: its states, and what is kept until the end."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple

from models.engine import Chunk, Client, Prompt, Sampling, TokenLogprob, Tokens
from overlay.errors import (
    EngineFailed,
    HearthError,
    InvalidRequest,
    ModelNotFound,
    NoRoute,
)
from overlay.forwarding.effects import CancelGeneration
from overlay.forwarding.explanations import Cause, Explanation
from overlay.identity.peer_id import PeerId
from overlay.limits import FRAME_TOKENS_MAX, MERGED_TOKENS_MAX, WAITING_CHARS_MAX
from overlay.routing.decision import Decision
from overlay.routing.lateness import late_ms
from overlay.wire.messages import TokenFrame

#: As how many characters a frame that waits counts.
FRAME_CHARS: Final = 8


class JobState(Enum):
    """``TOKENIZING -> DISPATCHED -> ACCEPTED -> BEGUN -> STREAMING``, then the job is gone.

    A dispatch that fails goes back from any state to DISPATCHED, elsewhere, to TOKENIZING, if
    there is a model here now that did not take part yet, or to WAITING.
    """

    TOKENIZING = auto()
    #: Handed to an engine or a peer that has not said yet that it takes it.
    DISPATCHED = auto()
    #: Queued.
    ACCEPTED = auto()
    #: In prefill.
    BEGUN = auto()
    STREAMING = auto()
    #: Nobody can take it, but who lost its link a moment ago may have another soon.
    WAITING = auto()


#: A peer has it, and there is no token yet.
UNANSWERED: Final = (JobState.ACCEPTED, JobState.BEGUN)


class Expected(NamedTuple):
    """Of the place where a job went, and since when; what had been generated before."""

    at_s: float
    ttft_ms: float
    #: From token to token.
    token_ms: float
    generated: int


class Broken(NamedTuple):
    """How many tokens a job had when a link broke that it went over, and how often it broke so."""

    generated: int
    times: int


@dataclass(slots=True)
class Job:
    """``upstream`` None: asked by a local client, so this node is the origin and fails over."""

    request_id: bytes
    model: str
    prompt: Prompt | None
    sampling: Sampling
    upstream: PeerId | None
    #: Nodes visited before this one, origin first.
    path: tuple[PeerId, ...]
    hop_limit: int
    submitted_at: float
    deadline: float
    local_only: bool = False
    #: As whom the engines know who asked, whatever becomes of its link.
    client: Client = ()
    state: JobState = JobState.TOKENIZING
    tokens: Tokens | None = None
    #: Key of the model that ``tokens`` and ``generated`` belong to, once known.
    model_key: bytes | None = None
    hashes: tuple[int, ...] = ()
    #: A context of so many tokens is too short for it.
    longer_than: int = 0
    #: Takes back what an engine of this node was asked to do for it.
    here: CancelGeneration | None = None
    #: Who had brought it by another way, and may not have heard that it was replaced.
    came_before_from: PeerId | None = None
    #: Key of the model that its downstream answers with, if that is known.
    answers_in: bytes | None = None

    # Where it went.
    downstream: PeerId | None = None
    tried: set[PeerId] = field(default_factory=set)
    #: Whose link broke.
    lost: dict[PeerId, Broken] = field(default_factory=dict)
    #: Until then one that lost its link may have another.
    hopes_until: float = -math.inf
    #: Do not have the model, they say, though their cards do: one that lost its link was started
    #: anew, say, and loads it. They are asked again as long as there is hope.
    not_ready: set[PeerId] = field(default_factory=set)
    #: Some of those who could take it are left alone, and were passed over this time.
    passed_over: bool = False
    decision: Decision | None = None
    #: Candidates among which it was decided; where there was none, as if there were so many.
    candidates: int = 0
    expected: Expected | None = None
    last_error: HearthError | None = None
    failed_over: bool = False
    executor: PeerId | None = None
    hops: int = 0
    rtt_ms: float = 0.0
    #: When to take the downstream for lost, unless it is heard of before.
    patience_until: float = 0.0
    #: When to look whether it has waited long enough (see `deadlines`): when it is due, or before.
    looked_at: float = math.inf

    # What has come back.
    generated: list[int] = field(default_factory=list)
    delivered_chars: int = 0
    frames_in: int = 0
    #: Characters of all frames.
    chars_in: int = 0
    first_token_at: float | None = None
    #: The first of those from where it is now.
    first_there_at: float | None = None

    # What has gone upstream.
    window: SendWindow | None = None

    explanation: Explanation = field(init=False)

    def __post_init__(self) -> None:
        self.explanation = Explanation(
            self.request_id, self.model, self.upstream, self.submitted_at
        )

    @property
    def due(self) -> float:
        """When it has waited long enough, for its downstream or altogether."""
        return min(self.deadline, self.patience_until)

    @property
    def passed_on(self) -> bool:
        """Whether its downstream says that somebody else takes it."""
        return self.executor not in (None, self.downstream)

    @property
    def tokens_only(self) -> bool:
        """Whether it can go on in tokens alone, and not from its prompt's text."""
        return self.prompt is None or bool(self.generated)

    @property
    def key_needed(self) -> bytes | None:
        """Only a model of this key can take it; None: any."""
        return self.model_key if self.tokens_only else None

    def knows(self, peer: PeerId) -> bool:
        """Whether the peer had a part in it, and may not have heard yet that it has none now."""
        return peer in (self.upstream, self.came_before_from) or self.explanation.has_asked(peer)

    def dispatch(self, downstream: PeerId, rtt_ms: float) -> None:
        """It goes there now, after whatever has failed."""
        self.downstream, self.rtt_ms = downstream, rtt_ms
        self.state, self.frames_in = JobState.DISPATCHED, 0
        self.executor = self.first_there_at = None

    def late_ms(self, now: float) -> float | None:
        """By how much its downstream was late, or is; 0 if it was in time.

        None: that cannot be told, as half of the time to take the job, or more, is left.
        """
        expected = self.expected
        if expected is None:
            return None
        if self.state is JobState.DISPATCHED and now - expected.at_s < self.patience_until - now:
            return None  # A long prompt may have been on its way until now.
        first_at = now if self.first_there_at is None else self.first_there_at
        first_ms, rest_ms = 1000 * (first_at - expected.at_s), 1000 * (now - first_at)
        tokens = max(1, len(self.generated) - expected.generated)
        return late_ms(expected.ttft_ms, first_ms, passed_on=self.passed_on) + late_ms(
            tokens * expected.token_ms, rest_ms, passed_on=self.passed_on
        )

    def place_failed(self, error: HearthError, *, here: bool) -> bool:
        """Where it went, it failed with this error; ``here``: that was this node.

        Returns whether it would fail so anywhere. That a request is invalid takes this node or
        two peers to say: a single one may say so of any. And where two engines failed, and there is
        a grammar, that was the cause as a rule: it would end those of all others, too.
        """
        self.explanation.attempts[-1].error = Cause.of(error)
        invalid = isinstance(error, InvalidRequest)
        said_before = isinstance(self.last_error, InvalidRequest)
        # What is wrong with the request says more than what is wrong with a node, and whom a peer
        # knows of says nothing: this node knows others.
        if not said_before and (here or not isinstance(error, ModelNotFound | NoRoute)):
            self.last_error = error
        if invalid:
            return here or said_before or self.upstream is not None
        causes = [attempt.error.code for attempt in self.explanation.attempts if attempt.error]
        return self.sampling.has_grammar and causes.count(EngineFailed.code) > 1


class SendWindow:
    """Frames sent upstream and not acknowledged yet; when full, tokens wait and are merged.

    End-to-end flow control: a slow or lossy path holds at most ``limit`` frames of a stream. Of
    what waits here, `overflows` tells.
    """

    __slots__ = ("_limit", "_request_id", "_waiting", "acked", "sent", "waiting_chars")

    def __init__(self, request_id: bytes, limit: int) -> None:
        self._request_id = request_id
        self._limit = limit
        self._waiting: deque[Chunk | TokenFrame] = deque()
        #: Frames sent so far: the next frame's ``seq``.
        self.sent = 0
        #: Frames acknowledged.
        self.acked = 0
        #: Of what waits, with what else is kept of it.
        self.waiting_chars = 0

    @property
    def overflows(self) -> bool:
        """More waits than anybody would leave waiting who wants it."""
        return self.waiting_chars > WAITING_CHARS_MAX

    def push(self, new: Chunk | TokenFrame) -> list[TokenFrame]:
        """Add tokens; returns the frames to send now, if the window has room."""
        if not self._waiting and self.sent - self.acked < self._limit:
            return [self._frame(new.tokens, new.text, new.logprobs)]
        self._waiting.append(new)
        self.waiting_chars += _chars(new)
        return self._drain()

    def acknowledge(self, seq: int) -> list[TokenFrame]:
        """The receiver has all frames up to ``seq``; returns what may follow."""
        if self.acked <= seq < self.sent:
            self.acked = seq + 1
        return self._drain()

    def flush(self) -> list[TokenFrame]:
        """The answer is over: what still waits goes out in the last frames."""
        return self._drain(force=True)

    def _drain(self, *, force: bool = False) -> list[TokenFrame]:
        frames = []
        tokens_max = FRAME_TOKENS_MAX if force else MERGED_TOKENS_MAX
        while self._waiting and (force or self.sent - self.acked < self._limit):
            frames.append(self._next_frame(tokens_max))
        return frames

    def _next_frame(self, tokens_max: int) -> TokenFrame:
        """What waits, as far as it fits into one frame."""
        tokens: list[int] = []
        text: list[str] = []
        logprobs: list[TokenLogprob] = []
        while self._waiting:
            new = self._waiting[0]
            if text and len(tokens) + len(new.tokens) > tokens_max:
                break
            self._waiting.popleft()
            self.waiting_chars -= _chars(new)
            tokens += new.tokens
            text.append(new.text)
            logprobs += new.logprobs
        return self._frame(tuple(tokens), "".join(text), tuple(logprobs))

    def _frame(self, tokens: Tokens, text: str, logprobs: tuple[TokenLogprob, ...]) -> TokenFrame:
        self.sent += 1
        return TokenFrame(self._request_id, self.sent - 1, tokens, text, logprobs)


def _chars(new: Chunk | TokenFrame) -> int:
    """Whatever has no character takes its room, too."""
    told = sum(
        1 + len(each.piece) + sum(1 + len(other.piece) for other in each.top)
        for each in new.logprobs
    )
    return FRAME_CHARS + len(new.tokens) + len(new.text) + told
