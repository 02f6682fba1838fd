"""Models of every architecture: whatever happened in the cache before, an answer is as if cold."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from models.engine import Sampling
from models.llama.backend import Outcome, Slice
from models.llama.loaded_model import LoadedModel
from models.llama.native import NativeBackend
from tests.support.tiny_gguf import WINDOW, write_tiny_gguf

#: Those that attend, so that a prompt can share another's cells up to any token.
DIVISIBLE = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
#: Those whose layers see only the last tokens.
SLIDING = ("gemma2", "gemma3")
CELLS = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


def load(folder: Path, architecture: str) -> LoadedModel:
    path = folder / f"{architecture}.gguf"
    if not path.exists():
        write_tiny_gguf(path, architecture=architecture)
    return LoadedModel(path, lambda share: None)


def text(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(250), k=count)


def compute(backend: NativeBackend, sequence: int, start: int, tokens: list[int]) -> None:
    """In steps below a tile, so that llama.cpp rounds alike however the tokens are cut."""
    for at in range(0, len(tokens), 32):
        part = Slice(sequence, start + at, tokens[at : at + 32], True)
        assert backend.decode([part]) is Outcome.DONE


def answer(backend: NativeBackend, sequence: int, start: int, count: int = 6) -> list[int]:
    """Greedy tokens after the last computed one."""
    sampler = backend.sampler(Sampling(temperature=0), ())
    tokens: list[int] = []
    while len(tokens) < count:
        tokens.append(sampler.sample(0))
        compute(backend, sequence, start + len(tokens) - 1, tokens[-1:])
    return tokens


def cold(model: LoadedModel, tokens: list[int]) -> list[int]:
    """The answer in a context that has seen nothing else."""
    backend = NativeBackend(model, cells=CELLS, threads=1)
    compute(backend, 0, 0, tokens)
    return answer(backend, 0, len(tokens))


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
        assert answer(backend, 3, cut + 1) == cold(model, [*long[:cut], 9])
        backend.forget(3, 0, None)


@pytest.mark.parametrize("architecture", SLIDING)
def test_a_full_cache_with_a_window_says_so(folder: Path, architecture: str) -> None:
    backend = NativeBackend(load(folder, architecture), cells=CELLS, threads=1)
    compute(backend, 0, 0, text(1, CELLS))
    assert backend.decode([Slice(1, 0, [1], True)]) is Outcome.FULL
    backend.forget(0, CELLS - 1, None)
    assert backend.decode([Slice(1, 0, [1], True)]) is Outcome.DONE
