"""A KV cache and decoder of plain Python, as strict as llama.cpp about positions and space.

The next token is a function of all tokens that a sequence covers, so a wrong share, a lost cell
or a stale one changes the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from models.engine import Sampling, TokenLogprob
from models.llama.backend import Outcome, Slice
from overlay.errors import InvalidRequest

VOCABULARY = 50
END_TOKEN = 0
#: A grammar that cannot be used.
BROKEN = "broken"


def next_token(history: Sequence[int]) -> int:
    """What the fake model answers after these tokens."""
    return crc32(repr(list(history)).encode()) % VOCABULARY


def answer_alone(prompt: Sequence[int], limit: int) -> list[int]:
    """The answer of a request that has the machine for itself."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < limit and (token := next_token(tokens)) != END_TOKEN:
        tokens.append(token)
    return tokens[len(prompt) :]


@dataclass(eq=False)
class Cell:
    position: int
    token: int
    sequences: set[int]


class FakeBackend:
    vocabulary = VOCABULARY

    def __init__(
        self,
        *,
        cells: int,
        sequences: int = 8,
        batch_tokens: int = 32,
        missing_cells: int = 0,
        divisible: bool = True,
    ) -> None:
        """``missing_cells``: so many fewer than it says that it has. ``divisible``: sequences can
        be cut and shared at any token, not only as a whole.
        """
        self.divisible = divisible
        #: Sequences whose state stands for nothing since a decode did not succeed.
        self.spoilt: set[int] = set()
        self.cells = cells
        self.missing_cells = missing_cells
        self.sequences = sequences
        self.batch_tokens = batch_tokens
        self.memory: list[Cell] = []
        self.piece_tokens = 8
        #: So many of the next restores fail.
        self.broken_restores = 0
        #: Seconds that a restore takes.
        self.restore_s = 0.0
        #: Those that a grammar takes to be read; and those read so far.
        self.grammar_s = 0.0
        #: Those that one takes to be followed by a token, by its text.
        self.follow_s: dict[str, float] = {}
        self.grammars: list[str] = []
        self.rows: list[list[int]] = []
        #: How the next decodes end, if not well.
        self.outcomes: deque[Outcome] = deque()
        #: The next decode is to be broken off, but not in time; and so was the last one.
        self.aborts_late = self.aborted = False
        #: Slices that were told to fail.
        self.failed = 0
        #: Seconds; and those that a token takes.
        self.now = 0.0
        self.token_s = 1e-3
        #: (sequence, tokens) of every decode.
        self.decodes: list[list[tuple[int, int]]] = []

    def clock(self) -> float:
        return self.now

    def history(self, sequence: int) -> list[int]:
        """The tokens that a sequence covers, which must be without gap or double."""
        assert sequence not in self.spoilt, "a state that stands for nothing"
        cells = sorted(
            (cell for cell in self.memory if sequence in cell.sequences),
            key=lambda cell: cell.position,
        )
        assert [cell.position for cell in cells] == list(range(len(cells)))
        return [cell.token for cell in cells]

    def decode(self, slices: Sequence[Slice]) -> Outcome:
        self.aborted, self.aborts_late = self.aborts_late, False
        count = sum(len(part.tokens) for part in slices)
        assert 0 < count <= self.batch_tokens
        self.decodes.append([(part.sequence, len(part.tokens)) for part in slices])
        self.now += count * self.token_s
        outcome = self.outcomes.popleft() if self.outcomes else Outcome.DONE
        if outcome is Outcome.FULL and len(slices) > 1:
            return outcome  # never to a request that has all cells for itself
        if len(self.memory) + count > self.cells - self.missing_cells:
            return Outcome.FULL
        if outcome is Outcome.FAILED:
            self.failed += len(slices)
        self.rows = []
        for part in slices:
            assert len(self.history(part.sequence)) == part.start, "positions must follow"
            for offset, token in enumerate(part.tokens):
                self.memory.append(Cell(part.start + offset, token, {part.sequence}))
            self.rows.append(self.history(part.sequence) if part.logits else [])
        outcome = Outcome.DONE if outcome is Outcome.FULL else outcome
        if outcome is not Outcome.DONE and not self.divisible:
            self.spoilt.update(part.sequence for part in slices)
        return outcome

    def complaint(self) -> str:
        return "the fake was told to fail"

    def share(self, source: int, target: int, start: int, end: int) -> None:
        assert self.divisible, "this memory can only be copied as a whole"
        for cell in self.memory:
            if source in cell.sequences and start <= cell.position < end:
                cell.sequences.add(target)

    def copy(self, source: int, target: int) -> None:
        assert self.history(source), "nothing to copy"
        assert not self.history(target), "copied onto something"
        for cell in self.memory:
            if source in cell.sequences:
                cell.sequences.add(target)

    def forget(self, sequence: int, start: int, end: int | None) -> None:
        assert self.divisible or (start, end) == (0, None), "this memory cannot be cut"
        self.spoilt.discard(sequence)
        for cell in self.memory:
            if start <= cell.position and (end is None or cell.position < end):
                cell.sequences.discard(sequence)
        self.memory = [cell for cell in self.memory if cell.sequences]

    def save(self, sequence: int, start: int, end: int) -> bytes:
        tokens = self.history(sequence)[start:end]
        assert 0 < len(tokens) == end - start <= self.piece_tokens
        return start.to_bytes(2, "big") + bytes(tokens)

    def restore(self, state: bytes, sequence: int, start: int, end: int) -> bool:
        first, tokens = int.from_bytes(state[:2], "big"), state[2:]
        self.now += self.restore_s
        assert first <= start < end <= first + len(tokens)
        assert len(self.history(sequence)) == start
        if self.broken_restores or len(self.memory) + len(tokens) > self.cells:
            self.broken_restores = max(0, self.broken_restores - 1)
            return False
        self.memory += [Cell(at, tokens[at - first], {sequence}) for at in range(start, end)]
        return True

    def sampler(self, sampling: Sampling, generated: Sequence[int]) -> FakeSampler:
        if sampling.grammar:
            self.now += self.grammar_s
            self.grammars.append(sampling.grammar)
        if sampling.grammar == BROKEN:
            raise InvalidRequest("The grammar is broken.")
        return FakeSampler(self, self.follow_s.get(sampling.grammar, 0.0))

    def piece(self, token: int) -> bytes:
        return bytes([ord("A") + token])

    def ends_generation(self, token: int) -> bool:
        return token == END_TOKEN


class FakeSampler:
    def __init__(self, backend: FakeBackend, follow_s: float) -> None:
        self._backend = backend
        self._follow_s = follow_s

    def sample(self, row: int) -> int:
        self._backend.now += self._follow_s
        assert self._backend.rows[row], "no logits were asked for here"
        return next_token(self._backend.rows[row])

    def logprobs(self, row: int, token: int) -> tuple[TokenLogprob, ...]:
        return ()
