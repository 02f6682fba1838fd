"""Frames between a node and its engine process: msgpack lists, one after the other, on pipes.

To the worker: ``[TOKENIZE, id, prompt, whether a guest's]``, ``[REMEMBER, prompt, answer]``,
``[SUBMIT, request]``, ``[CANCEL, request id]``, ``[HASH_KEY, key]``,
``[COPIES, [block, tokens, …]]``. From the worker: ``[PROGRESS, share]``, then
``[READY, info]`` or ``[INVALID, message]``; after that ``[TOKENS, id, tokens]``,
``[REJECTED, id, code, message]`` and ``[EVENTS, [event, …]]``; at any time
``[LOG, level, message]``. An end of file means that the other side is gone.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgpack

from models.engine import (
    Alternative,
    CacheChanged,
    Chunk,
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Message,
    ModelInfo,
    Priority,
    Prompt,
    Sampling,
    Started,
    TokenLogprob,
    Tokens,
)

TOKENIZE: Final = "tokenize"
SUBMIT: Final = "submit"
CANCEL: Final = "cancel"
HASH_KEY: Final = "hash-key"
REMEMBER: Final = "remember"
COPIES: Final = "copies"
PROGRESS: Final = "progress"
READY: Final = "ready"
INVALID: Final = "invalid"
TOKENS: Final = "tokens"
REJECTED: Final = "rejected"
EVENTS: Final = "events"
LOG: Final = "log"

#: A frame may be this long: the longest prompt, many times over.
FRAME_BYTES_MAX: Final = 64 << 20
#: Block hashes in one event. A cache that was found on disk has hundreds of thousands, and the node
#: must be able to do something else in between.
EVENT_HASHES_MAX: Final = 4096
#: Prompts of more characters than this (some ten milliseconds) are long ones; a turn of a
#: conversation counts for so many more, as the template has work with it.
LONG_PROMPT_CHARS: Final = 16 << 10
_TURN_CHARS: Final = 64
#: Once its pipe ends, a worker may take this long to bring its cache to disk.
SAVE_S: Final = 5.0

_EVENTS: Final[tuple[type[Any], ...]] = (
    Started,
    Chunk,
    Finished,
    Failed,
    CacheChanged,
    EngineStats,
)


def pack(frame: list[Any]) -> bytes:
    # A path may be no Unicode, and what names it has to be told all the same.
    data: bytes = msgpack.packb(frame, unicode_errors="replace")
    return data


def unpacker() -> msgpack.Unpacker:
    """Feed it bytes; iterate for frames, which come as tuples."""
    return msgpack.Unpacker(use_list=False, max_buffer_size=FRAME_BYTES_MAX)


def pack_tokens(tokens: Tokens) -> bytes:
    return array("i", tokens).tobytes()


def unpack_tokens(data: bytes) -> Tokens:
    tokens = array("i")
    tokens.frombytes(data)
    return tuple(tokens)


def pack_prompt(prompt: Prompt) -> Any:
    if isinstance(prompt, str):
        return prompt
    return [[message.role, message.content] for message in prompt]


def unpack_prompt(data: Any) -> Prompt:
    if isinstance(data, str):
        return data
    return tuple(Message(role, content) for role, content in data)


def takes_long(prompt: Any) -> bool:
    """Whether a packed prompt is tokenized on the thread for long ones."""
    if isinstance(prompt, str):
        return len(prompt) > LONG_PROMPT_CHARS
    chars = sum(_TURN_CHARS + len(role) + len(content) for role, content in prompt)
    return chars > LONG_PROMPT_CHARS


def pack_request(request: GenerationRequest) -> list[Any]:
    """Raises OverflowError for tokens of more than 32 bits."""
    return [
        request.request_id,
        pack_tokens(request.tokens),
        _fields(request.sampling),
        request.priority.value,
        pack_tokens(request.generated),
        request.delivered_chars,
        list(request.client),
    ]


def unpack_request(data: Any) -> GenerationRequest:
    request_id, tokens, sampling, priority, generated, delivered_chars, client = data
    return GenerationRequest(
        request_id=request_id,
        tokens=unpack_tokens(tokens),
        sampling=Sampling(*sampling),
        priority=Priority(priority),
        generated=unpack_tokens(generated),
        delivered_chars=delivered_chars,
        client=tuple(client),
    )


def priority_of(data: Any) -> Priority:
    """A packed request's."""
    return Priority(data[3])


def pack_copies(changed: Mapping[int, int]) -> list[int]:
    return [number for pair in changed.items() for number in pair]


def unpack_copies(data: Any) -> dict[int, int]:
    return dict(zip(data[::2], data[1::2], strict=True))


def pack_info(info: ModelInfo) -> list[Any]:
    return _fields(info)


def unpack_info(data: Any) -> ModelInfo:
    return ModelInfo(*data)


def event_frames(events: Iterable[EngineEvent]) -> Iterator[list[Any]]:
    """The events in as few frames as let their reader breathe; see EVENT_HASHES_MAX."""
    packed: list[Any] = []
    for event in events:
        for part in _parts(event):
            packed.append(pack_event(part))
            if isinstance(part, CacheChanged):
                yield [EVENTS, packed]
                packed = []
    if packed:
        yield [EVENTS, packed]


def _parts(event: EngineEvent) -> list[EngineEvent]:
    """The event itself, or smaller ones that say the same one after the other."""
    most = EVENT_HASHES_MAX
    if not isinstance(event, CacheChanged) or len(event.added) + len(event.removed) <= most:
        return [event]
    parts = [
        CacheChanged((), event.removed[at : at + most]) for at in range(0, len(event.removed), most)
    ]
    parts += [
        CacheChanged(event.added[at : at + most], ()) for at in range(0, len(event.added), most)
    ]
    return [dataclasses.replace(parts[0], reset=event.reset), *parts[1:]]


def pack_event(event: EngineEvent) -> list[Any]:
    kind = _EVENTS.index(type(event))
    if isinstance(event, Chunk) and event.logprobs:
        logprobs = [_pack_logprob(each) for each in event.logprobs]
        return [kind, event.request_id, event.tokens, event.text, logprobs]
    return [kind, *_fields(event)]


def unpack_event(data: Any) -> EngineEvent:
    kind, *fields = data
    if _EVENTS[kind] is Finished:
        request_id, reason, *rest = fields
        return Finished(request_id, FinishReason(reason), *rest)
    if _EVENTS[kind] is Chunk:
        request_id, tokens, text, logprobs = fields
        return Chunk(request_id, tokens, text, tuple(map(_unpack_logprob, logprobs)))
    event: EngineEvent = _EVENTS[kind](*fields)
    return event


def _pack_logprob(logprob: TokenLogprob) -> list[Any]:
    top = [(each.piece, each.logprob) for each in logprob.top]
    return [logprob.piece, logprob.logprob, top]


def _unpack_logprob(data: Any) -> TokenLogprob:
    piece, logprob, top = data
    return TokenLogprob(piece, logprob, tuple(Alternative(*each) for each in top))


def _fields(value: Any) -> list[Any]:
    return [getattr(value, field.name) for field in dataclasses.fields(value)]
