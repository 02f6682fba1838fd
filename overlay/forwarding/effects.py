"""What the forwarding core asks its driver to do, and what it tells a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from models.engine import Client, FinishReason, GenerationRequest, Prompt, TokenLogprob, Tokens
from overlay.errors import HearthError
from overlay.forwarding.explanations import Explanation
from overlay.identity.peer_id import PeerId
from overlay.routing.decision import Decision
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

#: What comes in for each token is first: those who tell messages apart ask in this order.
ForwardingMessage = (
    TokenFrame | StreamAck | Forward | Accepted | Begun | Completed | Refused | Cancel
)


class Send(NamedTuple):
    """Send ``message`` to ``peer``; if that cannot be done, call `Forwarder.undeliverable`."""

    peer: PeerId
    message: Message


@dataclass(frozen=True, slots=True)
class Tokenize:
    """Tokenize with the local model ``model``; answer with `Forwarder.tokenized`.

    ``client``: for whom.
    """

    request_id: bytes
    model: str
    prompt: Prompt
    client: Client = ()


@dataclass(frozen=True, slots=True)
class Generate:
    """Submit to the local engine of ``model``; its events go to `Forwarder.on_engine`."""

    model: str
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class CancelGeneration:
    """Take back what `Generate`, or `Tokenize`, asked for."""

    model: str
    request_id: bytes


class TextDelta(NamedTuple):
    """Text of the answer, in order, none lost or doubled.

    ``logprobs`` are of tokens whose text may still be held back.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of an answer, and how it came about (times in milliseconds)."""

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    served_by: PeerId
    hops: int
    route: str
    ttft_ms: float
    queue_ms: float
    prefill_ms: float
    rtt_ms: float
    decision: Decision
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class Failure:
    """No (whole) answer; nothing follows."""

    error: HearthError


ClientEvent = TextDelta | Answer | Failure


class Emit(NamedTuple):
    """Tell the local client of a request."""

    request_id: bytes
    event: ClientEvent


@dataclass(frozen=True, slots=True)
class Remember:
    """Tell the local model ``model`` that ``answer`` was delivered after ``prompt``."""

    model: str
    prompt: Tokens
    answer: Tokens


@dataclass(frozen=True, slots=True)
class CopiesChanged:
    """For the local engine of ``model``: see `models.engine.Engine.copies_changed`."""

    model: str
    changed: dict[int, int]


@dataclass(frozen=True, slots=True)
class Noticed:
    """A peer did what it should not, and nothing came of it: for the log, by ``matter``."""

    peer: PeerId
    matter: str
    detail: str


class Weighed(NamedTuple):
    """What it took to decide for a peer's request counts as so many messages of the peer."""

    peer: PeerId
    messages: int


Effect = (
    Send
    | Tokenize
    | Remember
    | Generate
    | CancelGeneration
    | Emit
    | CopiesChanged
    | Noticed
    | Weighed
)
