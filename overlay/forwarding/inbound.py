"""Reads a Forward message into a job, or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from models.engine import Client, Sampling
from overlay.errors import LimitExceeded, Malformed
from overlay.forwarding.job import Job, SendWindow
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    GRAMMAR_CHARS_MAX,
    HOP_LIMIT_MAX,
    LOGIT_BIAS_MAX,
    LOGPROBS_MAX,
    NAME_CHARS_MAX,
    PROMPT_MESSAGES_MAX,
    PROMPT_TOKENS_MAX,
    REQUEST_DEADLINE_S,
    STOP_STRING_CHARS_MAX,
    STOP_STRINGS_MAX,
    STREAM_WINDOW_FRAMES,
)
from overlay.wire.messages import Forward

#: Token ids stay below this: engines take them as signed 32-bit numbers.
_TOKEN_ID_END: Final = 1 << 31


def check_tokens(tokens: Sequence[int]) -> None:
    """Raises Malformed for what no vocabulary can hold."""
    if tokens and not 0 <= min(tokens) <= max(tokens) < _TOKEN_ID_END:
        raise Malformed("a token's id is a number from 0 to 2^31")


def job_of_forward(me: PeerId, sender: PeerId, client: Client, message: Forward, now: float) -> Job:
    """``client``: as whom the engines know the sender.

    Raises Malformed or LimitExceeded where the sender lies or asks for too much.
    """
    if len(message.request_id) != 16:
        raise Malformed("a request id has 16 bytes")
    if not message.path or message.path[-1] != sender:
        raise Malformed("a forwarded request's path ends with its sender")
    if me in message.path or len(set(message.path)) != len(message.path):
        raise Malformed("a forwarded request visits no node twice")
    if not 0 <= message.hop_limit <= HOP_LIMIT_MAX or len(message.path) > HOP_LIMIT_MAX:
        raise LimitExceeded(f"a request takes at most {HOP_LIMIT_MAX} hops")
    if (message.tokens is None) == (message.prompt is None):
        raise Malformed("a forwarded request has either tokens or a prompt")
    if message.generated and message.model_key is None:
        raise Malformed("tokens of an answer need the key of the model that they belong to")
    if len(message.tokens or ()) + len(message.generated) > PROMPT_TOKENS_MAX:
        raise LimitExceeded(f"a prompt has at most {PROMPT_TOKENS_MAX} tokens")
    if isinstance(message.prompt, tuple) and len(message.prompt) > PROMPT_MESSAGES_MAX:
        raise LimitExceeded(f"a conversation has at most {PROMPT_MESSAGES_MAX} messages")
    check_tokens(message.tokens or ())
    check_tokens(message.generated)
    if message.delivered_chars < 0:
        raise Malformed("fewer than no characters were delivered")
    if len(message.model) > NAME_CHARS_MAX:
        raise LimitExceeded(f"a model's name has at most {NAME_CHARS_MAX} characters")
    _check_sampling(message.sampling)
    allowed_s = min(REQUEST_DEADLINE_S, max(0, message.deadline_ms) / 1000)
    return Job(
        request_id=message.request_id,
        model=message.model,
        prompt=message.prompt,
        sampling=message.sampling,
        upstream=sender,
        path=message.path,
        # A path may be longer than it was. Who gets the next one would blame this node for it.
        hop_limit=min(message.hop_limit, HOP_LIMIT_MAX - len(message.path)),
        submitted_at=now,
        deadline=now + allowed_s,
        client=client,
        tokens=message.tokens,
        model_key=message.model_key,
        generated=list(message.generated),
        delivered_chars=message.delivered_chars,
        window=SendWindow(message.request_id, STREAM_WINDOW_FRAMES),
    )


def _check_sampling(sampling: Sampling) -> None:
    """The bounds that a client of this node would be held to. Raises Malformed, LimitExceeded."""
    if not 0 <= (sampling.logprobs or 0) <= LOGPROBS_MAX:
        raise LimitExceeded(f"a token has at most {LOGPROBS_MAX} alternatives")
    if max(len(sampling.grammar), len(sampling.json_schema)) > GRAMMAR_CHARS_MAX:
        raise LimitExceeded(f"a grammar has at most {GRAMMAR_CHARS_MAX} characters")
    if len(sampling.logit_bias) > LOGIT_BIAS_MAX:
        raise LimitExceeded(f"at most {LOGIT_BIAS_MAX} tokens have a bias")
    check_tokens([token for token, _ in sampling.logit_bias])
    longest = max(map(len, sampling.stop), default=0)
    if len(sampling.stop) > STOP_STRINGS_MAX or longest > STOP_STRING_CHARS_MAX:
        raise LimitExceeded(
            f"a request has at most {STOP_STRINGS_MAX} stop strings "
            f"of {STOP_STRING_CHARS_MAX} characters"
        )
