"""The engine contract: submit tokens, stream tokens, cancel, observe the cache.

Pure data and one protocol. An engine runs one model. Whoever drives it (the node, a benchmark, a
test) gives it a sink; everything the engine has to say arrives there as events, in order, on the
thread or loop that the engine documents. llama.cpp in a child process (`models.llama`) is one
implementation; an OpenAI-compatible server elsewhere can be another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol

#: Token ids, as the model's vocabulary numbers them.
Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a node tells others about a model that it serves."""

    name: str
    #: 16 bytes that make cached tokens interchangeable: name, tokenizer and template digest.
    key: bytes
    #: Other names it answers to.
    aliases: tuple[str, ...]
    #: One line for people: general name, parameters, quantisation.
    description: str
    #: Tokens (prompt and answer) that one request may use.
    context_length: int
    #: KV cells shared by all sequences.
    cells: int
    #: File size.
    size_bytes: int
    #: 16 bytes: what its tokenizer and template make of the probes (`models.probes`). Two nodes
    #: whose models have one key tokenize alike only if these agree, too. Empty: not known.
    probe: bytes = b""


def goes_by(asked: str, name: str, aliases: Collection[str]) -> bool:
    """Whether a model of this ``name`` is meant, in any capitals; ``aliases`` are in lower case."""
    asked = asked.lower()
    return asked == name.lower() or asked in aliases


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: role is system, user, assistant or tool."""

    role: str
    content: str


#: A prompt as users give it: a conversation (rendered by the model's chat template), or raw text.
Prompt = tuple[Message, ...] | str


def texts_of(prompt: Prompt | None) -> Sequence[str]:
    """What was written, turn by turn: raw text is one turn, and so is none at all."""
    prompt = prompt or ""
    return [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when generation ends. Defaults are llama.cpp's."""

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    #: None draws a fresh seed.
    seed: int | None = None
    #: Generation ends before the first of these would be shown.
    stop: tuple[str, ...] = ()
    #: (token id, bias) pairs added to the logits.
    logit_bias: tuple[tuple[int, float], ...] = ()
    typical_p: float = 1.0
    #: How many alternatives' log probabilities to tell with each token's own; None tells none.
    logprobs: int | None = None
    #: The answer follows this grammar (GBNF, llama.cpp's notation); empty: none.
    grammar: str = ""
    #: The answer is JSON that this JSON schema allows; empty: none. Not together with a grammar.
    json_schema: str = ""

    @property
    def has_grammar(self) -> bool:
        """Whether the answer follows a grammar, or one that a schema is turned into."""
        return bool(self.grammar or self.json_schema)


class Priority(IntEnum):
    """Who goes first: the owner's own requests, then guests', then what nobody waits for."""

    OWNER = 0
    GUEST = 1
    #: A prompt that is computed for requests to come, in time that nobody else needs.
    SPARE = 2


#: On whose behalf. Empty: the owner's. Else the PeerIds of those who let a member in, from the one
#: whom the founder invited down to the member, and its own once more: beside those it let in.
Client = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Work for an engine.

    ``generated`` are tokens of this answer that were emitted already, by an engine that failed:
    they are computed as part of the prompt, but count against ``max_tokens``, take part in
    penalties, and their text is replayed through the stop-string and UTF-8 state so that the
    stream goes on exactly after the first ``delivered_chars`` characters of the answer.
    ``client`` tells guests apart, so that the engine can be fair among them.
    """

    request_id: bytes
    tokens: Tokens
    sampling: Sampling = field(default_factory=Sampling)
    priority: Priority = Priority.OWNER
    generated: Tokens = ()
    delivered_chars: int = 0
    client: Client = ()


class FinishReason(StrEnum):
    """Why an answer ended: OpenAI's words, and our ``cancelled``."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Started:
    """The request left the queue; ``cached_tokens`` of its prompt need no computation."""

    request_id: bytes
    cached_tokens: int
    queue_ms: float


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that might have followed: its bytes, and the natural logarithm of its probability.

    ``piece`` may be incomplete UTF-8, and is empty for control tokens.
    """

    piece: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The chosen token as an Alternative, and the likeliest ones, in order (it may be among them).

    By the model alone: before biases, penalties, temperature and whatever else chooses a token.
    """

    piece: bytes
    logprob: float
    top: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens, and the text that may be shown now (may be empty while UTF-8 is incomplete).

    ``logprobs``: one for each of ``tokens`` if the request asked for them, else none.
    """

    request_id: bytes
    tokens: Tokens
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The request is over. ``prefill_ms``: from leaving the queue to the first token."""

    request_id: bytes
    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The request is over without an answer; ``code`` is of `overlay.errors`."""

    request_id: bytes
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CacheChanged:
    """Block hashes (unsigned 64 bit) that became, or ceased to be, reusable.

    ``reset``: forget all earlier ones first. A parent's hash is added before its children's.
    """

    added: tuple[int, ...]
    removed: tuple[int, ...]
    reset: bool = False


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The part of an engine's figures that its cache knows."""

    #: Cached tokens that left the KV cache for RAM or disk, and the bytes that they take there.
    spilled_tokens: int = 0
    spilled_bytes: int = 0
    disk_tokens: int = 0
    disk_bytes: int = 0
    #: At which tokens came back from there, per second; compare with ``prefill_rate``.
    restore_rate: float = 0.0
    #: Totals since the start: tokens that left the KV cache, and how often some had to.
    evicted_tokens: int = 0
    evictions: int = 0
    #: Pieces of evicted state that were kept in RAM or on disk, came back, or had to be given up.
    spills: int = 0
    restores: int = 0
    restored_tokens: int = 0
    dropped_pieces: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats(CacheStats):
    """Load and speed, now. Rates are tokens per second, smoothed; 0 means not measured yet.

    Requests of `Priority.SPARE` are no load, for they hold nobody up.
    """

    queued: int = 0
    running: int = 0
    #: Prompt tokens not computed yet, of queued and running requests.
    pending_prefill_tokens: int = 0
    #: Of these, guests'.
    pending_guest_tokens: int = 0
    prefill_rate: float = 0.0
    decode_rate: float = 0.0
    cells_used: int = 0
    cells_total: int = 0
    sequences_used: int = 0
    #: Of the queued requests, guests'.
    queued_guests: int = 0
    #: Totals since the start.
    requests: int = 0
    #: Requests that found a part of their prompt cached.
    hits: int = 0
    #: Of prompts that were computed to their end, and of these, cached ones.
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    #: Requests that gave their cells to others and went on later, from what was still cached.
    preemptions: int = 0
    #: Decodes since the start, the seconds they took, and the part that llama.cpp computed.
    steps: int = 0
    step_seconds: float = 0.0
    computing_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineDied:
    """The engine is gone; every open request has been failed before this."""

    message: str


#: Of one request.
RequestEvent = Started | Chunk | Finished | Failed
EngineEvent = RequestEvent | CacheChanged | EngineStats | EngineDied
EventSink = Callable[[EngineEvent], None]


class Engine(Protocol):
    """One loaded model. All methods and the sink belong to one asyncio loop."""

    @property
    def info(self) -> ModelInfo: ...

    async def tokenize(self, prompt: Prompt, *, guests: bool = False) -> Tokens:
        """Render and tokenize, without waiting for running generations.

        ``guests``: a guest asks, and what is remembered of that takes no room of the owner's.
        Raises InvalidRequest (a conversation the template rejects), EngineFailed.
        """

    def remember(self, prompt: Tokens, answer: Tokens) -> None:
        """``answer`` was delivered after ``prompt``, wherever it was generated.

        A conversation that goes on from it is tokenized with these very tokens, as far as its text
        is the same, so that it finds them in the cache.
        """

    def submit(self, request: GenerationRequest) -> None:
        """Queue the request; its events follow, ending with Finished or Failed."""

    def cancel(self, request_id: bytes) -> None:
        """End a request early (Finished, ``cancelled``); unknown ids are ignored."""

    def set_hash_key(self, key: bytes) -> None:
        """Key of the block hashes (the mesh secret); CacheChanged(reset), EngineStats follow."""

    def copies_changed(self, changed: Mapping[int, int]) -> None:
        """Block hash -> what it costs to have the block elsewhere: as much as to compute so many
        tokens. 0: it cannot be had; so it is with blocks that were never named.

        What can be had elsewhere for less than its computation is evicted sooner.
        """

    async def close(self) -> None:
        """Stop; idempotent."""
