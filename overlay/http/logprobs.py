"""Log probabilities in OpenAI's two shapes: chat's, and that of the old completions. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, Protocol

from models.engine import Alternative, TokenLogprob


class LogprobShape(Protocol):
    """Dresses one answer's tokens, in order, as they come."""

    def dress(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """A choice's ``logprobs``, for these tokens."""


class ChatLogprobs:
    """``{"content": [{"token", "logprob", "bytes", "top_logprobs"}]}``"""

    def dress(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        content = [
            _entry(token) | {"top_logprobs": [_entry(each) for each in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


class CompletionLogprobs:
    """``{"tokens", "token_logprobs", "top_logprobs", "text_offset"}``, four arrays side by side.

    ``text_offset`` counts the characters of the answer that are whole before a token begins.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def dress(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.piece))
        return {
            "tokens": [_name(token.piece) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            # The chosen token is always among them, so there may be one more than asked for.
            "top_logprobs": [
                {_name(token.piece): token.logprob}
                | {_name(each.piece): each.logprob for each in token.top}
                for token in tokens
            ],
            "text_offset": offsets,
        }


def _entry(token: Alternative | TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.piece.decode("utf-8", "replace"),
        "logprob": token.logprob,
        "bytes": list(token.piece),
    }


def _name(piece: bytes) -> str:
    """The token's text; OpenAI's notation for a part of a character, which is none."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
