"""What clients get, in OpenAI's shapes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from overlay.http.backend import Answered, ModelListing
from overlay.http.logprobs import ChatLogprobs, CompletionLogprobs, LogprobShape

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
    ``index`` is the choice's number; ``logprobs`` are dressed already, or None.
    """

    #: Begins the answer's id.
    prefix: str

    def logprobs(self) -> LogprobShape:
        """Dresses the tokens of one choice."""

    def opening(self, head: Mapping[str, Any], index: int) -> bytes:
        """The events before any text of a choice."""

    def piece(
        self, head: Mapping[str, Any], index: int, text: str, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        """A stream chunk with text."""

    def last(self, head: Mapping[str, Any], index: int, reason: str) -> dict[str, Any]:
        """The stream chunk that tells why a choice ended."""

    def usage(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """The stream chunk without a choice that carries the usage."""

    def whole(self, head: Mapping[str, Any], choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The answer in one piece."""

    def choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str
    ) -> dict[str, Any]:
        """A choice of the answer in one piece."""


class ChatShape:
    """``/v1/chat/completions``"""

    prefix = "chatcmpl-"

    def logprobs(self) -> LogprobShape:
        return ChatLogprobs()

    def opening(self, head: Mapping[str, Any], index: int) -> bytes:
        return sse(_chunk(head, index, {"role": "assistant", "content": ""}))

    def piece(
        self, head: Mapping[str, Any], index: int, text: str, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        return _chunk(head, index, {"content": text}, logprobs)

    def last(self, head: Mapping[str, Any], index: int, reason: str) -> dict[str, Any]:
        return _chunk(head, index, {}, reason=reason)

    def usage(self, head: Mapping[str, Any]) -> dict[str, Any]:
        return {**head, "object": "chat.completion.chunk", "choices": []}

    def whole(self, head: Mapping[str, Any], choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {**head, "object": "chat.completion", "choices": choices}

    def choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str
    ) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": reason,
        }


class CompletionShape:
    """``/v1/completions``"""

    prefix = "cmpl-"

    def logprobs(self) -> LogprobShape:
        return CompletionLogprobs()

    def opening(self, head: Mapping[str, Any], index: int) -> bytes:
        return b""

    def piece(
        self, head: Mapping[str, Any], index: int, text: str, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        return self.whole(head, [_completion(index, text, logprobs, None)])

    def last(self, head: Mapping[str, Any], index: int, reason: str) -> dict[str, Any]:
        return self.whole(head, [_completion(index, "", None, reason)])

    def usage(self, head: Mapping[str, Any]) -> dict[str, Any]:
        return self.whole(head, [])

    def whole(self, head: Mapping[str, Any], choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {**head, "object": "text_completion", "choices": choices}

    def choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str
    ) -> dict[str, Any]:
        return _completion(index, text, logprobs, reason)


def usage(answers: Sequence[Answered]) -> dict[str, Any]:
    """OpenAI's ``usage``: the prompt counts once, however many answers it got.

    ``cached_tokens`` is the actual match: what the first answer found, for the others share it.
    """
    prompt = answers[0].prompt_tokens
    completion = sum(answered.completion_tokens for answered in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": min(answered.cached_tokens for answered in answers)
        },
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


def _chunk(
    head: Mapping[str, Any],
    index: int,
    delta: dict[str, str],
    logprobs: dict[str, Any] | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def _completion(
    index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
