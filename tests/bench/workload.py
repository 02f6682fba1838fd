"""The prompts of the engine benchmarks: text and token ids, the same in every run.

Made of common words by a seeded generator, in both forms: engines are fed token ids, a node text.
"""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import llama_cpp

from models.engine import Tokens

SEED: Final = 20_261_125
WORDS: Final = """
answer apple bank bread bridge brother castle chair change circle city cloud coast coffee
color corner country dance doctor dream earth evening family farm field fire flower forest
friend garden glass green guest hand harbor history home horse hour house island journey
kitchen lake language letter library light market meadow memory money moon morning mountain
music night north number ocean orange order paper picture place plate quiet rain reason rest
river road rule school season shadow ship shoulder silver sister snow song south spring
stone story street summer table teacher tower travel valley village voice water weather
window winter wonder word world year
"""

_SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in both forms; the text tokenizes into these token ids."""

    text: str
    tokens: Tokens


class Vocabulary:
    """The vocabulary of a model file, without its weights."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_log_set(_SILENT, None)
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self._model, f"llama.cpp cannot load {path}"
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        count = llama_cpp.llama_vocab_n_tokens(self._vocab)
        #: The tokens that end an answer.
        self.ends: Tokens = tuple(
            token for token in range(count) if llama_cpp.llama_vocab_is_eog(self._vocab, token)
        )
        #: Words that are one token each, wherever they stand.
        self._words = [
            word for word in WORDS.split() if len(self._tokens(f" {word}", start=False)) == 1
        ]

    def prompt(self, text: str) -> Prompt:
        """A raw completion's; with BOS if the model wants one."""
        return Prompt(text, self._tokens(text, start=True))

    def _tokens(self, text: str, *, start: bool) -> Tokens:
        data = text.encode()
        buffer = (ctypes.c_int32 * (len(data) + 1))()
        count = llama_cpp.llama_tokenize(
            self._vocab, data, len(data), buffer, len(buffer), start, False
        )
        return tuple(buffer[:count])

    # --- what is asked ----------------------------------------------------------------------

    def prefixes(self, count: int, length: int) -> list[str]:
        """Texts of ``length`` tokens each, which differ from their first words on."""
        dice = random.Random(SEED)
        return [self.grown(f"Edition {number}:", length, dice) for number in range(count)]

    def questions(self, count: int) -> list[str]:
        """20 tokens each, to follow on a prefix; they differ from their first words on."""
        dice = random.Random(SEED + 1)
        asked = []
        for first in dice.sample(self._words, count):
            second, third, fourth = dice.sample(self._words, 3)
            asked.append(
                f" {first} or {second}? Tell me why the {third} "
                f"needs one of them but no {fourth}.\nAnswer:"
            )
        return asked

    def openings(self, count: int) -> list[Prompt]:
        """Short prompts of about 16 tokens that differ from their first words on."""
        dice = random.Random(SEED + 2)
        words = dice.sample(self._words, count)
        return [self.prompt(self.grown(f"The {word}", 16, dice)) for word in words]

    def said(self, length: int, dice: random.Random) -> Tokens:
        """What a user says next, to be put after the tokens of a conversation."""
        return self._tokens(
            "".join(f" {dice.choice(self._words)}" for _ in range(length)), start=False
        )

    def grown(self, text: str, length: int, dice: random.Random) -> str:
        """The text with as many words behind it as make up ``length`` tokens."""
        missing = length - len(self._tokens(text, start=True))
        return text + "".join(f" {dice.choice(self._words)}" for _ in range(missing))
