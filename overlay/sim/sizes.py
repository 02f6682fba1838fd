"""How many bytes a message takes on the wire, near enough, without packing it."""

from __future__ import annotations

from typing import Final

from overlay.gossip.effects import GossipMessage
from overlay.gossip.fitting import DELTA_OVERHEAD_BYTES
from overlay.gossip.latest import change_bytes
from overlay.wire.anti_entropy import (
    CompactSyn,
    CompactSynAck,
    DigestEntry,
    GossipAck,
    OriginDelta,
    Syn,
    SynAck,
)
from overlay.wire.messages import Completed, Forward, Message, TokenFrame

#: An origin, and four numbers of which one is a time in milliseconds.
_ENTRY_BYTES: Final = 35 + 9 + 3 * 3
#: What an answer says of its sender's own records: three numbers and a digest.
_CONTENTS_BYTES: Final = 1 + 9 + 2 * 3 + 10
#: The heads of a compact digest, and its fingerprint.
_COMPACT_BYTES: Final = 18
#: Tokens of vocabularies beyond 65,536 take five bytes, others three.
_TOKEN_BYTES: Final = 3
_MESSAGE_BYTES: Final = 40


def size_of(message: Message) -> int:
    """Bytes of ``message``."""
    match message:
        case Syn(digest=digest):
            return _digest(digest)
        case SynAck(digest=digest, deltas=deltas):
            return _digest(digest) + _deltas(deltas) + _CONTENTS_BYTES
        case GossipAck(deltas=deltas):
            return _deltas(deltas)
        case CompactSyn(heartbeats=heartbeats, contents=contents):
            return _COMPACT_BYTES + len(heartbeats) + len(contents)
        case CompactSynAck(heartbeats=heartbeats, contents=contents, deltas=deltas):
            told_bytes = _COMPACT_BYTES + len(heartbeats) + len(contents)
            return told_bytes + _deltas(deltas) + _CONTENTS_BYTES
        case Forward(tokens=tokens, generated=generated):
            return 4 * _MESSAGE_BYTES + _TOKEN_BYTES * (len(tokens or ()) + len(generated))
        case TokenFrame(tokens=tokens, text=text):
            return _MESSAGE_BYTES + _TOKEN_BYTES * len(tokens) + len(text)
        case Completed():
            return 3 * _MESSAGE_BYTES
    return _MESSAGE_BYTES


def is_gossip(message: Message) -> bool:
    return isinstance(message, GossipMessage)


def _digest(digest: tuple[DigestEntry, ...]) -> int:
    return _ENTRY_BYTES * len(digest)


def _deltas(deltas: tuple[OriginDelta, ...]) -> int:
    return sum(DELTA_OVERHEAD_BYTES + sum(map(change_bytes, delta.changes)) for delta in deltas)
