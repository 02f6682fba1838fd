"""What users ask of a mesh, and when: sessions of one or more turns.

Everything is made on the way: a workload of a million requests takes the memory of those that are
under way. The same seed gives the same requests, whatever the nodes do with them.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Sequence
from itertools import accumulate
from math import log
from typing import NamedTuple, Protocol, Self, overload

from models.engine import Tokens
from overlay.sim.text import name_of, text


class Turn(NamedTuple):
    """One request and its answer. It is asked ``pause_s`` after the previous turn's end."""

    prompt: Tokens
    answer: Tokens
    pause_s: float


class Session(NamedTuple):
    """Turns that follow on each other: each prompt begins with the last prompt and its answer.

    ``origin``: the index of the node that is asked. ``at_s``: when the first turn is asked.
    """

    at_s: float
    origin: int
    turns: Sequence[Turn]


class Workload(Hashable, Protocol):
    """A source of sessions, itself a value. ``name`` is what `workloads.registry` makes it from."""

    @property
    def name(self) -> str: ...

    def sessions(self, rng: random.Random, *, nodes: int, rate_per_s: float) -> Iterator[Session]:
        """Sessions in order of ``at_s``, as long as the caller wants or the workload lasts.

        ``rate_per_s``: sessions that begin per second, in the whole mesh of ``nodes`` nodes.
        """
        ...


class Exchange(NamedTuple):
    """A turn's lengths in tokens: what is new in its prompt, and the answer."""

    said_tokens: int
    answer_tokens: int
    pause_s: float = 0.0


class Conversation(Sequence[Turn]):
    """The turns of a session, spelled out when they are asked for.

    It begins with ``opening``, which other sessions may share. All that follows is its own:
    ``name`` must be given to no other conversation.
    """

    __slots__ = ("_exchanges", "_name", "_opening")

    def __init__(self, name: int, opening: Tokens, exchanges: Sequence[Exchange]) -> None:
        self._name = name
        self._opening = opening
        self._exchanges = tuple(exchanges)

    def __len__(self) -> int:
        return len(self._exchanges)

    @overload
    def __getitem__(self, at: int) -> Turn: ...
    @overload
    def __getitem__(self, at: slice) -> list[Turn]: ...
    def __getitem__(self, at: int | slice) -> Turn | list[Turn]:
        turns = range(len(self))[at]
        return self._turn(turns) if isinstance(turns, int) else [self._turn(k) for k in turns]

    def _turn(self, last: int) -> Turn:
        own = sum(e.said_tokens + e.answer_tokens for e in self._exchanges[: last + 1])
        words = self._opening + text(self._name, own)
        said = len(words) - self._exchanges[last].answer_tokens
        return Turn(words[:said], words[said:], self._exchanges[last].pause_s)


class Dice(NamedTuple):
    """Independent streams of chance, so that another popularity leaves the arrivals as they are."""

    arrivals: random.Random
    popularity: random.Random
    lengths: random.Random
    origins: random.Random
    pauses: random.Random

    @classmethod
    def of(cls, rng: random.Random) -> Self:
        return cls(*(random.Random(rng.getrandbits(64)) for _ in cls._fields))


def poisson(dice: random.Random, rate_per_s: float) -> Iterator[float]:
    """Times, in seconds from 0, of independent arrivals (a Poisson process), without end."""
    at_s = 0.0
    while True:
        at_s += dice.expovariate(rate_per_s)
        yield at_s


def zipf_weights(count: int, skew: float) -> list[float]:
    """Cumulative weights of ranks 1 to ``count``: rank r has 1/r**skew. 0: all alike."""
    return list(accumulate(rank**-skew for rank in range(1, count + 1)))


def geometric(dice: random.Random, mean: float) -> int:
    """A length of 1 or more, ``mean`` (at least 1) on average: each token may be the last."""
    if mean <= 1:
        return 1
    return 1 + int(log(1 - dice.random()) / log(1 - 1 / mean))


def session_name(workload: str, number: int) -> int:
    """The name for the texts of a workload's session ``number``."""
    return name_of(workload, "session", number)
