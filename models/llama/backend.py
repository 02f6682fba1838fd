"""What the scheduler needs of llama.cpp: an interface, so that its tests need no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from models.engine import Sampling, TokenLogprob


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens of one sequence to compute in this step: positions ``[start, start + len)``."""

    sequence: int
    start: int
    tokens: Sequence[int]
    #: The last token's logits are wanted.
    logits: bool


class Outcome(Enum):
    """How a decode ended. Unless DONE, nothing that it wrote may be relied on."""

    DONE = "done"
    FULL = "full"
    ABORTED = "aborted"
    FAILED = "failed"


class Sampler(Protocol):
    """One request's way of choosing tokens, with its penalties and random state."""

    def sample(self, row: int) -> int:
        """Choose, and remember, a token from the logits of slice ``row`` of the last decode.

        Raises InvalidRequest if the grammar admits none of the model's tokens.
        """

    def logprobs(self, row: int, token: int) -> tuple[TokenLogprob, ...]:
        """What the model thought of the token it chose there; none if nobody asked."""


class Backend(Protocol):
    """A KV cache of ``cells`` cells shared by ``sequences`` sequences, and a decoder over it."""

    @property
    def cells(self) -> int: ...

    @property
    def sequences(self) -> int: ...

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""

    @property
    def batch_tokens(self) -> int:
        """Tokens that one decode may compute."""

    def decode(self, slices: Sequence[Slice]) -> Outcome: ...

    @property
    def divisible(self) -> bool:
        """A sequence can be set back by a token; else only as a whole."""

    @property
    def aborted(self) -> bool:
        """It was to be broken off since the last decode began, perhaps too late for that.

        Never where whoever was part of it would lose all of what it has computed.
        """

    def complaint(self) -> str:
        """What was wrong with the last decode, in the library's words."""

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """Let ``target`` cover the cells of ``source`` at positions ``[start, end)`` too."""

    def copy(self, source: int, target: int) -> None:
        """Let ``target``, which has none, cover all cells of ``source``: for any memory."""

    def forget(self, sequence: int, start: int, end: int | None) -> None:
        """Take ``sequence`` off its cells at ``[start, end)``; cells of no sequence are free."""

    @property
    def piece_tokens(self) -> int:
        """Tokens whose state can be saved at one time, at most."""

    def save(self, sequence: int, start: int, end: int) -> bytes:
        """The state of the sequence's cells at positions ``[start, end)``."""

    def restore(self, state: bytes, sequence: int, start: int, end: int) -> bool:
        """Let ``sequence`` cover ``[start, end)`` of a saved state, which takes that many cells.

        While it works, it takes as many cells as the whole state has. False if it cannot be done.
        """

    def sampler(self, sampling: Sampling, generated: Sequence[int]) -> Sampler:
        """A sampler that stands where it would after the tokens ``generated``.

        Raises InvalidRequest for a grammar that is broken, or that those tokens do not follow.
        """

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text; none for control tokens."""

    def ends_generation(self, token: int) -> bool: ...
