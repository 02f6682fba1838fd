"""A model's tokenizer and template: prompts to tokens, and the digest that peers compare.

Where a conversation goes on from an answer that was generated here or for us, that answer's own
tokens stand for it (see `models.llama.answers`), so that a turn is a token prefix of the next.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import chain, islice
from typing import Final

import llama_cpp

from models.engine import Message, Prompt, Tokens
from models.llama.answers import AnswerMemory
from models.llama.chat_template import ChatTemplate
from models.llama.loaded_model import LoadedModel
from models.llama.native import token_piece
from models.probes import PROBE_MOMENT, probe_digest
from overlay.errors import InvalidRequest

MODEL_KEY_BYTES: Final = 16

_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
_UNSPOKEN = _CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNUSED

# Put into control tokens that a message spells out, so that they stay text: noncharacters of
# Unicode's plane 16, the first that no message contains.
_MARKS = [chr(code) for code in range(0x10FF00, 0x10FFFE)]

#: How often a conversation is rendered to find an answer in it that is remembered: a peer may send
#: thousands of turns that all begin like one.
RENDERINGS_MAX: Final = 8


class Vocabulary:
    """Tokenizes for one model, on any thread."""

    def __init__(self, model: LoadedModel) -> None:
        self._vocab = model.vocab
        self._size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        bos = llama_cpp.llama_vocab_bos(self._vocab)
        eos = llama_cpp.llama_vocab_eos(self._vocab)
        self._bos = bos if bos >= 0 and llama_cpp.llama_vocab_get_add_bos(self._vocab) else None
        self._bos_text = self._text(bos).decode("utf-8", "replace") if bos >= 0 else ""
        eos_text = self._text(eos).decode("utf-8", "replace") if eos >= 0 else ""
        self._template = ChatTemplate(model.chat_template(), bos=self._bos_text, eos=eos_text)
        self._control = self._control_pattern()
        # A peer may say that it answered with any tokens, also such as there are not.
        piece = lru_cache(self._size)(self._spoken)
        #: Those of the owner's, and of guests': these are many, and have only each other forgotten.
        self._answers = AnswerMemory(piece), AnswerMemory(piece)
        self._pre = model.metadata("tokenizer.ggml.pre") or ""

    def tokenize(
        self, prompt: Prompt, at: datetime | None = None, *, guests: bool = False
    ) -> Tokens:
        """Raises InvalidRequest for a conversation that the template rejects.

        ``at``: the time that the template is told; None for now. ``guests``: a guest asks.
        """
        if isinstance(prompt, str):
            return self._tokenize(prompt, add_special=True, parse_special=False)
        mark = _unused_mark(prompt)
        defused = [self._defused(message, mark) for message in prompt]
        text = self._template.render(defused, at)
        beginning, end = self._beginning(defused, text, mark)
        parts = text[end:].split(mark)  # A prompt may spell out 87,000 control tokens.
        rest = (self._tokenize(part, add_special=False, parse_special=True) for part in parts)
        tokens = (*beginning, *chain.from_iterable(rest))
        self._answers[guests].note_prompt(text, tokens)
        return tokens

    def remember(self, prompt: Tokens, answer: Tokens) -> None:
        """``answer`` was generated and delivered after ``prompt``, which `tokenize` has made.

        Conversations that go on from it, or from a beginning of it, are tokenized accordingly.
        """
        for memory in self._answers:
            memory.note_answer(prompt, answer)

    def probe(self) -> bytes:
        """What prompts become here, in one digest; see `models.probes`."""
        return probe_digest(partial(self.tokenize, at=PROBE_MOMENT))

    def model_key(self, name: str) -> bytes:
        """What makes cached tokens interchangeable; weights and quantisation take no part."""
        digest = blake2b(digest_size=MODEL_KEY_BYTES, person=b"hearth model")
        flags = f"{self._bos} {llama_cpp.llama_vocab_type(self._vocab)} {self._pre}"
        parts = [name.encode(), self._template.source.encode(), flags.encode()]
        for token in range(self._size):
            attributes = llama_cpp.llama_vocab_get_attr(self._vocab, token)
            score = llama_cpp.llama_vocab_get_score(self._vocab, token)
            parts.append(b"%d %r %b" % (attributes, score, self._text(token)))
        for part in parts:
            digest.update(len(part).to_bytes(4, "little") + part)
        return digest.digest()

    def _beginning(self, messages: Sequence[Message], text: str, mark: str) -> tuple[Tokens, int]:
        """Tokens of the rendered ``text``'s beginning, and where in it the rest begins.

        They reach to the end of the last answer that is remembered and stands in the text as it
        was generated. A template may well have changed it, or what was before it: then no further.
        """
        answers = (
            turn
            for turn in range(len(messages) - 1, 0, -1)
            if messages[turn].role == "assistant"
            and self._may_know(messages[turn].content.replace(mark, ""))
        )
        for turn in islice(answers, RENDERINGS_MAX):
            try:
                before = self._template.render(messages[:turn])
            except InvalidRequest:
                continue
            if self._control is None or not text.startswith(before):
                continue
            # At a control token, tokenizing can start anew and nothing changes.
            end = self._control.search(text, len(before))
            if end is not None:
                answer = text[len(before) : end.start()].replace(mark, "")
                for memory in self._answers:
                    tokens = memory.beginning(before, answer)
                    if tokens is not None:
                        return tokens, end.start()
        begins = self._bos is not None and not text.startswith(self._bos_text)
        return ((self._bos,) if begins and self._bos is not None else ()), 0

    def _may_know(self, answer: str) -> bool:
        return any(memory.may_know(answer) for memory in self._answers)

    def _spoken(self, token: int) -> bytes | None:
        """What a token adds to an answer's text; None if it is no part of a text."""
        if not 0 <= token < self._size:
            return None
        if llama_cpp.llama_vocab_get_attr(self._vocab, token) & _UNSPOKEN:
            return None
        return token_piece(self._vocab, token)

    def _defused(self, message: Message, mark: str) -> Message:
        """The message, with every control token that it spells out broken by the mark."""
        if self._control is None:
            return message
        broken = rf"\1{mark}"
        return Message(
            self._control.sub(broken, message.role), self._control.sub(broken, message.content)
        )

    def _control_pattern(self) -> re.Pattern[str] | None:
        texts = {
            self._text(token).decode("utf-8", "replace")
            for token in range(self._size)
            if llama_cpp.llama_vocab_get_attr(self._vocab, token) & _CONTROL
        }
        spelled = sorted(re.escape(text) for text in texts if len(text) > 1)
        # A lookahead, so that control tokens that overlap are all found.
        return re.compile(rf"(?={'|'.join(spelled)})(.)", re.DOTALL) if spelled else None

    def _text(self, token: int) -> bytes:
        return llama_cpp.llama_vocab_get_text(self._vocab, token) or b""

    def _tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        buffer = (ctypes.c_int32 * size)()
        count = llama_cpp.llama_tokenize(
            self._vocab, data, len(data), buffer, size, add_special, parse_special
        )
        if count < 0:  # a tokenizer that needs more tokens than bytes
            buffer = (ctypes.c_int32 * -count)()
            count = llama_cpp.llama_tokenize(
                self._vocab, data, len(data), buffer, -count, add_special, parse_special
            )
        return tuple(buffer[:count])


def _unused_mark(messages: Sequence[Message]) -> str:
    text = "".join(message.role + message.content for message in messages)
    for mark in _MARKS:
        if mark not in text:
            return mark
    raise InvalidRequest("The conversation contains every character that could mark its parts.")
