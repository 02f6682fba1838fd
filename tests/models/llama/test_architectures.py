"""Models of every architecture: whatever happened in the cache before, an answer is as if cold."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from models.engine import Sampling
from models.llama.backend import Outcome, Slice
from models.llama.cache import Cache
from models.llama.kv_cache import KvCache
from models.llama.loaded_model import LoadedModel
from models.llama.native import NativeBackend
from models.llama.private_cache import PrivateCache
from models.llama.rate import Rates
from models.llama.spill import Spill
from overlay.prefix.radix import RadixTree
from tests.models.llama.bench import SchedulerBench
from tests.models.llama.cold import check_answer
from tests.support.tiny_gguf import ARCHITECTURES, WINDOW, write_tiny_gguf

#: Those whose layers see only the last tokens.
SLIDING = ("gemma2", "gemma3")
#: Those with a recurrent state: copied as a whole, never cut.
RECURRENT = ("mamba", "lfm2")
CELLS = 256
CONTEXT = 400
#: Answers' lengths.
ANSWER = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


@cache
def load(folder: Path, architecture: str) -> LoadedModel:
    path = write_tiny_gguf(folder / f"{architecture}.gguf", architecture=architecture)
    return LoadedModel(path, lambda share: None)


def text(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(250), k=count)


# --- the library, as the backend uses it ------------------------------------------------------


def compute(backend: NativeBackend, sequence: int, start: int, tokens: list[int]) -> None:
    for at in range(0, len(tokens), 64):
        part = Slice(sequence, start + at, tokens[at : at + 64], True)
        assert backend.decode([part]) is Outcome.DONE


def answer(backend: NativeBackend, sequence: int, start: int) -> list[int]:
    """Greedy tokens after the last computed one."""
    sampler = backend.sampler(Sampling(temperature=0), ())
    tokens: list[int] = []
    while len(tokens) < ANSWER:
        tokens.append(sampler.sample(0))
        compute(backend, sequence, start + len(tokens) - 1, tokens[-1:])
    return tokens


@pytest.mark.parametrize("architecture", SLIDING)
def test_cells_outside_the_window_are_not_given_away(folder: Path, architecture: str) -> None:
    """llama.cpp reuses them when it looks for room from the front; a fork there lost its past."""
    model = load(folder, architecture)
    assert model.window == WINDOW
    backend = NativeBackend(model, cells=CELLS, threads=1)
    first, long = text(1, 50), text(2, 150)
    compute(backend, 1, 0, first)
    compute(backend, 0, 0, long)
    backend.forget(1, 0, None)
    compute(backend, 2, 0, text(3, 90))
    for cut in (8, 30, 50, 100, 149):
        backend.share(0, 3, 0, cut)
        compute(backend, 3, cut, [9])
        check_answer(model, [*long[:cut], 9], answer(backend, 3, cut + 1))
        backend.forget(3, 0, None)


@pytest.mark.parametrize("architecture", SLIDING)
def test_a_full_cache_with_a_window_says_so(folder: Path, architecture: str) -> None:
    backend = NativeBackend(load(folder, architecture), cells=CELLS, threads=1)
    compute(backend, 0, 0, text(1, CELLS))
    assert backend.decode([Slice(1, 0, [1], True)]) is Outcome.FULL
    backend.forget(0, CELLS - 1, None)
    assert backend.decode([Slice(1, 0, [1], True)]) is Outcome.DONE


@pytest.mark.parametrize("architecture", RECURRENT)
def test_copies_of_a_state_go_their_own_ways(folder: Path, architecture: str) -> None:
    model = load(folder, architecture)
    assert not model.needs.divisible
    backend = NativeBackend(model, cells=CELLS, threads=1)
    start, ways = text(1, 40), [text(2, 7), text(3, 20), text(4, 1)]
    compute(backend, 0, 0, start)
    for sequence in (1, 2):
        backend.copy(0, sequence)
    # Together in one batch, then one after the other.
    together = [Slice(sequence, 40, way, True) for sequence, way in enumerate(ways)]
    assert backend.decode(together) is Outcome.DONE
    for sequence, way in enumerate(ways):
        compute(backend, sequence, 40 + len(way), [9])
        check_answer(model, [*start, *way, 9], answer(backend, sequence, 41 + len(way)))


@pytest.mark.parametrize("architecture", RECURRENT)
def test_a_state_outlives_its_copy_and_its_original(folder: Path, architecture: str) -> None:
    model = load(folder, architecture)
    backend = NativeBackend(model, cells=CELLS, threads=1)
    start = text(1, 40)
    compute(backend, 0, 0, start)
    backend.copy(0, 1)
    compute(backend, 0, 40, [9])
    check_answer(model, [*start, 9], answer(backend, 0, 41))
    backend.forget(0, 0, None)
    compute(backend, 0, 0, text(5, 10))
    backend.copy(1, 2)
    backend.forget(1, 0, None)
    compute(backend, 2, 40, [9])
    check_answer(model, [*start, 9], answer(backend, 2, 41))


# --- the engine over it -----------------------------------------------------------------------


class Bench(SchedulerBench):
    """The scheduler on a model, with a clock on which every look takes a millisecond."""

    def __init__(self, model: LoadedModel, *, cells: int = 1024, ram_bytes: int = 0) -> None:
        ticks = itertools.count()
        self.model = model
        backend = NativeBackend(model, cells=cells, threads=1)
        rates = Rates()
        self.cache: Cache
        if model.needs.divisible:
            tree, spill = RadixTree(b"", b"", cells), Spill(ram_bytes, None, rates)
            self.cache = KvCache(backend, tree, spill, rates, lambda: next(ticks) * 1e-3)
        else:
            self.cache = PrivateCache(backend, b"", b"")
        super().__init__(
            backend, self.cache, rates, context=CONTEXT, clock=lambda: next(ticks) * 1e-3
        )

    def ask(self, prompt: Sequence[int]) -> tuple[list[int], int]:
        """The answer, and how many of the prompt's tokens were cached."""
        request_id = self.submit(prompt, ANSWER)
        self.run()
        return self.tokens(request_id), self.end(request_id).cached_tokens

    def check_answer(self) -> None:
        """Every answer is that of a cold context."""
        for request_id, request in self.requests.items():
            check_answer(self.model, request.tokens, self.tokens(request_id))


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, folder: Path) -> LoadedModel:
    return load(folder, request.param)


def test_the_next_turn_and_the_same_again(model: LoadedModel) -> None:
    bench = Bench(model)
    conversation = text(1, 100)
    warm = 0
    for turn in range(4):
        reply, cached = bench.ask(conversation)
        assert cached >= warm
        # The last token of an answer was never computed.
        warm = len(conversation) + len(reply) - 1
        conversation += [*reply, *text(10 + turn, 15)]
    # The same prompt: its last tile at most is computed again.
    assert bench.ask(bench.requests[b"\0\3"].tokens)[1] >= 128
    bench.check_answer()


def test_prompts_that_share_a_beginning(model: LoadedModel) -> None:
    bench = Bench(model)
    beginning = text(1, 150)
    cached = [bench.ask([*beginning, n, *text(n, 70)])[1] for n in range(2, 5)]
    if model.needs.divisible:
        assert cached == [0, 150, 150]
    else:
        assert cached == [0, 0, 128]
    bench.check_answer()


def test_forks_anywhere(model: LoadedModel) -> None:
    bench = Bench(model)
    long = text(1, 200)
    bench.ask(long)
    for at in (1, 31, 64, 65, 130, 199, 120, 20):
        bench.ask([*long[:at], *text(at, 5)])
    bench.check_answer()


def test_requests_side_by_side(model: LoadedModel) -> None:
    bench = Bench(model)
    beginning = text(1, 90)
    for n in range(12):
        bench.submit([*beginning[: 90 if n % 2 else 30], *text(n, 7 + 5 * n)], ANSWER)
        bench.scheduler.step()
        if n % 4 == 3:
            bench.scheduler.cancel(bytes([0, n]))
    bench.run()
    bench.check_answer()


def test_more_than_there_is_room_for(model: LoadedModel) -> None:
    """Evicted, spilled and restored, preempted: answers stay right."""
    bench = Bench(model, cells=512, ram_bytes=1 << 20)
    prompts = [[*text(n // 2, 100), *text(n, 60 + 9 * n)] for n in range(8)]
    for _ in range(2):
        for prompt in prompts:
            bench.submit(prompt, ANSWER)
        bench.run()
    for n, prompt in enumerate(prompts):
        bench.ask([*prompt[: 80 + 10 * n], *text(50 + n, 10)])
    counts = bench.cache.stats()
    assert counts.evictions
    assert bool(counts.restores) == model.needs.divisible
    bench.check_answer()
