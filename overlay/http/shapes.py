"""What clients get, in OpenAI's shapes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Protocol

from overlay.http.backend import Answered, ModelListing

SSE_DONE: Final = b"data: [DONE]\n\n"
SSE_KEEP_ALIVE: Final = b": still working\n\n"

#: One encoder for all: `json.dumps` would build one for every token.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def dump(value: object) -> bytes:
    """Compact JSON in UTF-8."""
    return _ENCODER.encode(value).encode()


def sse(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


class Shape(Protocol):
    """How one endpoint dresses an answer.

    ``head`` holds what all chunks of an answer share: id, created, model (and an empty usage).
    """

    #: Begins the answer's id.
    prefix: str

    def opening(self, head: Mapping[str, Any]) -> bytes:
        """The events before any text."""

    def piece(self, head: Mapping[str, Any], text: str) -> dict[str, Any]:
        """A stream chunk with text."""

    def last(self, head: Mapping[str, Any], reason: str) -> dict[str, Any]:
        """The stream chunk that tells why the answer ended."""

    def usage(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """The stream chunk without a choice that carries the usage."""

    def whole(self, head: Mapping[str, Any], text: str, reason: str) -> dict[str, Any]:
        """The answer in one piece."""


class ChatShape:
    """``/v1/chat/completions``"""

    prefix = "chatcmpl-"

    def opening(self, head: Mapping[str, Any]) -> bytes:
        return sse(_chunk(head, {"role": "assistant", "content": ""}, None))

    def piece(self, head: Mapping[str, Any], text: str) -> dict[str, Any]:
        return _chunk(head, {"content": text}, None)

    def last(self, head: Mapping[str, Any], reason: str) -> dict[str, Any]:
        return _chunk(head, {}, reason)

    def usage(self, head: Mapping[str, Any]) -> dict[str, Any]:
        return {**head, "object": "chat.completion.chunk", "choices": []}

    def whole(self, head: Mapping[str, Any], text: str, reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {**head, "object": "chat.completion", "choices": [choice]}


class CompletionShape:
    """``/v1/completions``"""

    prefix = "cmpl-"

    def opening(self, head: Mapping[str, Any]) -> bytes:
        return b""

    def piece(self, head: Mapping[str, Any], text: str) -> dict[str, Any]:
        return _completion(head, text, None)

    def last(self, head: Mapping[str, Any], reason: str) -> dict[str, Any]:
        return _completion(head, "", reason)

    def usage(self, head: Mapping[str, Any]) -> dict[str, Any]:
        return {**head, "object": "text_completion", "choices": []}

    def whole(self, head: Mapping[str, Any], text: str, reason: str) -> dict[str, Any]:
        return _completion(head, text, reason)


def usage(answered: Answered) -> dict[str, Any]:
    """OpenAI's ``usage``; ``cached_tokens`` is the actual match."""
    return {
        "prompt_tokens": answered.prompt_tokens,
        "completion_tokens": answered.completion_tokens,
        "total_tokens": answered.prompt_tokens + answered.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": answered.cached_tokens},
    }


def model(listing: ModelListing) -> dict[str, Any]:
    """OpenAI's model object, with what it has no word for under ``hearth``."""
    return {
        "id": listing.name,
        "object": "model",
        "created": listing.created_s,
        "owned_by": "hearth",
        "hearth": {
            "aliases": list(listing.aliases),
            "description": listing.description,
            "local": listing.local,
            "context_length": listing.context_length,
        },
    }


def _chunk(head: Mapping[str, Any], delta: dict[str, str], reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def _completion(head: Mapping[str, Any], text: str, reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    return {**head, "object": "text_completion", "choices": [choice]}
