"""Answers as they were generated, for the conversations that go on from them.

A conversation comes back as text, and an answer's text rarely tokenizes to the very tokens that
the model chose. So the next turn would miss the cache from the answer on. This memory knows which
tokens were generated after which prompt.

It changes no meaning: what it puts in place of a text has exactly that text, and holds no control
tokens, so whose answer it was makes no difference, and neither does who asks. What a token says is
found out where it is compared with a text: an answer may be of a hundred thousand, and whoever
has others forget it by such answers must not have them wait for it, too.
"""

from __future__ import annotations

import codecs
import threading
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from models.engine import Tokens
from overlay.limits import ANSWERS_PER_PROMPT_MAX, REMEMBERED_TOKENS_MAX

#: Whether an answer may be known is seen by so many of its first characters, before any work.
_OPENING_CHARS: Final = 8
#: Which are sought in so many of its first tokens: it may be of nothing but space.
_OPENING_TOKENS: Final = 64


@dataclass(slots=True)
class _Prompt:
    tokens: array[int]
    answers: list[array[int]] = field(default_factory=list)


class AnswerMemory:
    """Prompts by their text, with their answers; those used longest ago are forgotten first.

    Any thread may use it.
    """

    def __init__(self, piece: Callable[[int], bytes | None]) -> None:
        """``piece``: the bytes that a token adds to an answer; None for control tokens."""
        self._piece = piece
        self._lock = threading.Lock()
        self._prompts: OrderedDict[bytes, _Prompt] = OrderedDict()
        #: From the digest of a prompt's tokens to that of its text.
        self._by_tokens: dict[bytes, bytes] = {}
        self._openings: Counter[str] = Counter()
        #: Tokens of all prompts and answers.
        self.size = 0

    def note_prompt(self, text: str, tokens: Tokens) -> None:
        """This rendered conversation was tokenized so, and an answer to it may follow."""
        key = _digest(text.encode("utf-8", "surrogatepass"))
        prompt = _Prompt(array("i", tokens))
        with self._lock:
            if key in self._prompts and self._prompts[key].tokens != prompt.tokens:
                self._forget(key)
            if key not in self._prompts:
                self._prompts[key] = prompt
                self.size += len(tokens)
            self._prompts.move_to_end(key)
            # Some tokenizers make the same of two texts: what follows is an answer to the latest.
            self._by_tokens[_digest(prompt.tokens.tobytes())] = key
            self._shrink()

    def note_answer(self, prompt: Tokens, answer: Tokens) -> None:
        """These tokens were generated, and delivered, after a prompt that was tokenized here."""
        try:
            key = self._by_tokens.get(_digest(array("i", prompt).tobytes()))
            noted = array("i", answer)
        except OverflowError:  # a peer may send anything
            return
        if key is None or not noted:
            return
        with self._lock:
            entry = self._prompts.get(key)
            if entry is None:  # by now
                return
            self._prompts.move_to_end(key)
            if noted in entry.answers:
                return
            if len(entry.answers) == ANSWERS_PER_PROMPT_MAX:
                self._drop(entry, entry.answers[0])
            entry.answers.append(noted)
            self._openings[self._opening_of(noted)] += 1
            self.size += len(noted)
            self._shrink()

    def may_know(self, answer: str) -> bool:
        """False: nothing that begins like it was generated, space aside."""
        return _opening(answer) in self._openings

    def beginning(self, prompt: str, answer: str) -> Tokens | None:
        """The tokens of a rendered prompt and of ``answer`` to it, if they are known."""
        key = _digest(prompt.encode("utf-8", "surrogatepass"))
        with self._lock:
            entry = self._prompts.get(key)
            if entry is None:
                return None
            self._prompts.move_to_end(key)
            # The newest first: it is the likeliest to be cached still.
            answers = entry.answers[::-1]
        # Another thread waits for none of this.
        counts = ((known, self._tokens_of(known, answer)) for known in answers)
        return next(((*entry.tokens, *known[:count]) for known, count in counts if count), None)

    def _tokens_of(self, known: array[int], text: str) -> int:
        """How many of its tokens have exactly this text; 0: no number of them.

        Less than all where a stop string or the reader ended the answer.
        """
        if not text:
            return 0
        pieces: list[bytes] = []
        # A token of a text has a byte or more, and a character four at most.
        for piece in map(self._piece, known[: 4 * len(text) + 1]):
            if piece is None:
                break
            pieces.append(piece)
        # All at once, for it is the whole answer as a rule, or another one.
        said = b"".join(pieces).decode("utf-8", "replace")
        if said == text and len(pieces) == len(known):
            return len(known)
        if not said.startswith(text):
            return 0
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        chars = 0
        for count, piece in enumerate(pieces, 1):
            chars += len(decoder.decode(piece))
            if chars >= len(text):
                whole = chars == len(text) and not decoder.getstate()[0]
                return count if whole else 0
        return 0

    def _opening_of(self, answer: array[int]) -> str:
        pieces = (self._piece(token) or b"" for token in answer[:_OPENING_TOKENS])
        return _opening(b"".join(pieces).decode("utf-8", "replace"))

    def _shrink(self) -> None:
        while self.size > REMEMBERED_TOKENS_MAX:
            self._forget(next(iter(self._prompts)))

    def _forget(self, key: bytes) -> None:
        entry = self._prompts.pop(key)
        tokens = _digest(entry.tokens.tobytes())
        if self._by_tokens.get(tokens) == key:  # Else they are of a later text, too.
            del self._by_tokens[tokens]
        self.size -= len(entry.tokens)
        for answer in list(entry.answers):
            self._drop(entry, answer)

    def _drop(self, entry: _Prompt, answer: array[int]) -> None:
        entry.answers.remove(answer)
        self.size -= len(answer)
        opening = self._opening_of(answer)
        self._openings[opening] -= 1
        if not self._openings[opening]:
            del self._openings[opening]


def _opening(text: str) -> str:
    return text.lstrip()[:_OPENING_CHARS]


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
