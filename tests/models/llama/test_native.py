"""The llama.cpp backend, without a process around it."""

from __future__ import annotations

import threading

import pytest

from models.llama.backend import Outcome, Slice
from models.llama.loaded_model import LoadedModel
from models.llama.native import NativeBackend
from tests.support.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = write_tiny_gguf(tmp_path_factory.mktemp("native") / "m.gguf", layers=8, context=1024)
    return LoadedModel(path, lambda share: None)


@pytest.fixture
def backend(model: LoadedModel) -> NativeBackend:
    return NativeBackend(model, cells=1024, threads=1)


def tokens(start: int, count: int) -> list[int]:
    return [(start + n) % 200 for n in range(count)]


def test_a_full_cache_says_so_and_recovers(backend: NativeBackend) -> None:
    for at in (0, 512):
        assert backend.decode([Slice(0, at, tokens(at, 512), False)]) is Outcome.DONE
    assert backend.decode([Slice(1, 0, [1], True)]) is Outcome.FULL
    backend.forget(0, 1000, None)
    assert backend.decode([Slice(1, 0, [1], True)]) is Outcome.DONE


def test_few_cells_make_a_batch_small(model: LoadedModel) -> None:
    """llama.cpp makes 512 cells of 300, but aborts the process if a batch has more than 300."""
    backend = NativeBackend(model, cells=300, threads=1)
    assert backend.batch_tokens <= 300
    work = [Slice(0, 0, tokens(0, backend.batch_tokens), True)]
    assert backend.decode(work) is Outcome.DONE


def test_positions_must_follow(backend: NativeBackend) -> None:
    assert backend.decode([Slice(0, 5, [1], True)]) is Outcome.DONE
    assert backend.decode([Slice(0, 9, [1], True)]) is Outcome.FAILED
    assert backend.decode([Slice(0, 6, [1], True)]) is Outcome.DONE


def test_a_shared_prefix_costs_no_cells(backend: NativeBackend) -> None:
    assert backend.decode([Slice(0, 0, tokens(0, 500), False)]) is Outcome.DONE
    assert backend.decode([Slice(0, 500, tokens(500, 500), False)]) is Outcome.DONE
    for sequence in range(1, 9):
        backend.share(0, sequence, 0, 1000)
    slices = [Slice(sequence, 1000, [sequence], True) for sequence in range(1, 9)]
    assert backend.decode(slices) is Outcome.DONE


def test_a_decode_can_be_broken_off(
    backend: NativeBackend, capfd: pytest.CaptureFixture[str]
) -> None:
    outcomes: list[Outcome] = []
    work = [Slice(0, 0, tokens(0, 512), True)]
    thread = threading.Thread(target=lambda: outcomes.append(backend.decode(work)))
    thread.start()
    while thread.is_alive():
        backend.abort()
    assert outcomes == [Outcome.ABORTED]
    assert not capfd.readouterr().err, "it would be taken for the reason of a later crash"
    backend.forget(0, 0, None)
    assert backend.decode(work) is Outcome.DONE
