"""The messages of the Hearth protocol, versions 1 and 2.

A message is a frozen dataclass; `overlay.wire.codec` packs it as one msgpack array
``[kind, field, field, …]`` in the order of the fields. Field types say everything the decoder
checks. Sequences are tuples, times are durations in milliseconds (clocks differ between
machines), peers are raw 32-byte public keys.

The sender of a message is whoever the link authenticated; no message names its own sender.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from models.engine import Prompt, Sampling, TokenLogprob
from overlay.identity.peer_id import PeerId
from overlay.wire.anti_entropy import (
    CompactSyn,
    CompactSynAck,
    GossipAck,
    RevocationNotice,
    Syn,
    SynAck,
)
from overlay.wire.between_transports import (
    DialBack,
    DialedBack,
    Moved,
    Relay,
    Relayed,
    Unrelayed,
)

PROTOCOL_VERSION: Final = 1
#: Who speaks this too, reads compact digests.
COMPACT_DIGESTS_VERSION: Final = 2
#: What this node speaks, as its Hello says.
VERSIONS: Final = (PROTOCOL_VERSION, COMPACT_DIGESTS_VERSION)


@dataclass(frozen=True, slots=True)
class Hello:
    """First message in each direction on a link: who I am, and my proof of membership.

    ``peer_id`` must have the CURVE key that the link authenticated. ``certificates`` is the
    chain from the sender's own up to one signed by the founder (empty: not a member yet, or the
    founder itself). Who has shown no certificate gets a bare Hello in answer: PeerId and nonce.
    """

    KIND: ClassVar[int] = 1
    versions: tuple[int, ...]
    peer_id: PeerId
    mesh_id: bytes
    name: str
    certificates: tuple[bytes, ...]
    addresses: tuple[str, ...]
    #: Fresh randomness that a JoinRequest to this sender must prove itself against.
    nonce: bytes
    #: A listener's, to a member: the multiaddr that it sees the dialer at.
    observed: str = ""


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A stranger proves that it holds an invite's secret; see `overlay.identity.invites`."""

    KIND: ClassVar[int] = 2
    invite_id: bytes
    proof: bytes
    name: str


@dataclass(frozen=True, slots=True)
class JoinGrant:
    """The membership that an invite was exchanged for; ``name`` is the inviter's."""

    KIND: ClassVar[int] = 3
    founder: PeerId
    certificates: tuple[bytes, ...]
    mesh_secret: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The link will not come about; ``code`` is of `overlay.errors`. The sender closes after it.

    ``evidence``: with the code ``revoked``, the revocation, so that nobody takes it on trust.
    """

    KIND: ClassVar[int] = 4
    code: str
    message: str
    evidence: bytes = b""


@dataclass(frozen=True, slots=True)
class Ping:
    KIND: ClassVar[int] = 5
    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    KIND: ClassVar[int] = 6
    nonce: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender stops on purpose, so nobody needs to suspect it first."""

    KIND: ClassVar[int] = 7
    reason: str


# --- Forwarding -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forward:
    """A request passed on. The receiver runs it, passes it on, or refuses.

    ``tokens`` is the tokenized prompt, or None when the sender has no tokenizer for the model;
    then ``prompt`` is what the receiver tokenizes. ``path``: nodes visited, origin first.
    """

    KIND: ClassVar[int] = 20
    request_id: bytes
    model: str
    model_key: bytes | None
    tokens: tuple[int, ...] | None
    prompt: Prompt | None
    generated: tuple[int, ...]
    delivered_chars: int
    sampling: Sampling
    path: tuple[PeerId, ...]
    hop_limit: int
    deadline_ms: int
    estimated_match: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """The executor (last in ``path``) has taken the request; sent back along the path."""

    KIND: ClassVar[int] = 21
    request_id: bytes
    executor: PeerId
    hops: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Begun:
    """The request left the executor's queue; ``cached_tokens`` is the actual match."""

    KIND: ClassVar[int] = 22
    request_id: bytes
    cached_tokens: int
    queue_ms: float


class _TokenFrame(NamedTuple):
    request_id: bytes
    seq: int
    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class TokenFrame(_TokenFrame):
    """New tokens of the answer. ``seq`` counts frames from 0 without a gap.

    ``logprobs``: one for each token if the request asked for them, else none.
    """

    __slots__ = ()
    KIND: ClassVar[int] = 23


@dataclass(frozen=True, slots=True)
class StreamAck:
    """The receiver has taken all frames up to and including ``seq``."""

    KIND: ClassVar[int] = 24
    request_id: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class Completed:
    """The answer is whole; ``seq`` is the number of token frames that came before."""

    KIND: ClassVar[int] = 25
    request_id: bytes
    seq: int
    reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was not, or is no longer, served here; ``code`` is of `overlay.errors`.

    ``retry_after_ms``: ask nothing more of this node before that; 0: it says nothing of it.
    """

    KIND: ClassVar[int] = 26
    request_id: bytes
    code: str
    message: str
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """The origin lost interest; stop and free what the request holds."""

    KIND: ClassVar[int] = 27
    request_id: bytes


class BatchedFrame(NamedTuple):
    """A TokenFrame without log probabilities."""

    request_id: bytes
    seq: int
    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames, and acknowledgements of others, as if each had come by itself."""

    KIND: ClassVar[int] = 28
    frames: tuple[BatchedFrame, ...]
    acks: tuple[StreamAck, ...]

    @property
    def count(self) -> int:
        """Of its parts."""
        return len(self.frames) + len(self.acks)

    def parts(self) -> list[TokenFrame | StreamAck]:
        """What it is made of, in an order that it may be read in."""
        return [*[TokenFrame(*frame) for frame in self.frames], *self.acks]


Message = (
    Hello
    | JoinRequest
    | JoinGrant
    | Refusal
    | Ping
    | Pong
    | Goodbye
    | Syn
    | SynAck
    | GossipAck
    | CompactSyn
    | CompactSynAck
    | RevocationNotice
    | Relay
    | Relayed
    | Unrelayed
    | Moved
    | DialBack
    | DialedBack
    | Forward
    | Accepted
    | Begun
    | TokenFrame
    | StreamAck
    | Completed
    | Refused
    | Cancel
    | Batch
)
