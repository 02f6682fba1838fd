"""How many ordinary messages it costs to take one in that has many parts, or asks for much.

A message may be a mebibyte, and most of what a peer may say in one comes to a look into a table.
Not so gossip: each origin that it mentions, and each record, takes its time, whoever made it up.
And what is answered by a look at every peer takes longer than it looks: a digest, a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.limits import (
    BATCH_FRAMES_PER_MESSAGE,
    CHANGES_PER_MESSAGE,
    DIGEST_MESSAGES,
    ENTRIES_PER_MESSAGE,
    FORWARD_MESSAGES,
    LOGPROBS_PER_MESSAGE,
    PROMPT_MESSAGES_PER_MESSAGE,
    TOKENS_PER_MESSAGE,
)
from overlay.wire.anti_entropy import CompactSyn, CompactSynAck, GossipAck, OriginDelta, Syn, SynAck
from overlay.wire.messages import Batch, Forward, Message, TokenFrame

_ONE: Final = 1.0


def weight(message: Message) -> float:
    """In messages; at least one."""
    match message:
        case Batch():
            tokens = sum(len(frame.tokens) for frame in message.frames)
            parts = message.count / BATCH_FRAMES_PER_MESSAGE + tokens / TOKENS_PER_MESSAGE
        case TokenFrame(tokens=new, logprobs=logprobs):
            told = len(logprobs) + sum(len(each.top) for each in logprobs)
            parts = told / LOGPROBS_PER_MESSAGE + len(new) / TOKENS_PER_MESSAGE
        case Forward(prompt=prompt):
            conversation = len(prompt) if isinstance(prompt, tuple) else 0
            tokens = len(message.tokens or ()) + len(message.generated)
            parts = FORWARD_MESSAGES + conversation / PROMPT_MESSAGES_PER_MESSAGE
            parts += tokens / TOKENS_PER_MESSAGE
        case Syn(digest=digest):
            parts = max(DIGEST_MESSAGES, len(digest) / ENTRIES_PER_MESSAGE)
        case CompactSyn():
            parts = DIGEST_MESSAGES
        case CompactSynAck(deltas=deltas):
            parts = max(DIGEST_MESSAGES, _weight_of(deltas))
        case SynAck(digest=digest, deltas=deltas):
            parts = len(digest) / ENTRIES_PER_MESSAGE + _weight_of(deltas)
        case GossipAck(deltas=deltas):
            parts = _weight_of(deltas)
        case _:
            return _ONE
    return max(_ONE, parts)


def _weight_of(deltas: Sequence[OriginDelta]) -> float:
    return len(deltas) + sum(len(delta.changes) for delta in deltas) / CHANGES_PER_MESSAGE
