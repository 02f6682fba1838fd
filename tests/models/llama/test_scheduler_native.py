"""The scheduler with real llama.cpp underneath, on a tiny model and with too few cells."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine import FinishReason, Priority
from models.llama.kv_cache import KvCache
from models.llama.loaded_model import LoadedModel
from models.llama.native import NativeBackend
from models.llama.rate import Rates
from models.llama.spill import Spill
from overlay.prefix.radix import RadixTree
from tests.models.llama.bench import SchedulerBench
from tests.models.llama.cold import check_answer
from tests.support.radix_check import check_integrity
from tests.support.tiny_gguf import write_tiny_gguf

CELLS = 512
CONTEXT = 300
ANSWER = 6

# Prompts that share beginnings, some of them longer than all cells together can hold side by side.
prompts = st.builds(
    lambda first, length, rest: [first + n % 40 for n in range(length)] + rest,
    st.sampled_from([10, 100]),
    st.sampled_from([3, 40, 150, 280]),
    st.lists(st.integers(10, 200), min_size=1, max_size=4),
)
requests = st.lists(
    st.tuples(
        prompts,
        st.sampled_from([b"", b"ann", b"ben"]),
        st.integers(0, 4),
        st.one_of(st.none(), st.integers(0, 3)),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path: Path = write_tiny_gguf(tmp_path_factory.mktemp("crowd") / "m.gguf", context=CONTEXT)
    return LoadedModel(path, lambda share: None)


@pytest.fixture(scope="module")
def backend(model: LoadedModel) -> NativeBackend:
    return NativeBackend(model, cells=CELLS, threads=1)


class Bench(SchedulerBench):
    """A scheduler over the shared backend, whose cells are all free."""

    def __init__(self, backend: NativeBackend, ram_bytes: int = 0) -> None:
        for sequence in range(backend.sequences):
            backend.forget(sequence, 0, None)
        rates = Rates()
        self.tree = RadixTree(b"secret", b"model", CELLS)
        cache = KvCache(backend, self.tree, Spill(ram_bytes, None, rates), rates, time.monotonic)
        super().__init__(backend, cache, rates, context=CONTEXT, clock=time.monotonic)

    def ask(self, tokens: list[int], client: bytes = b"") -> bytes:
        priority = Priority.GUEST if client else Priority.OWNER
        return self.submit(tokens, ANSWER, priority=priority, client=client)

    def run(self) -> None:
        while self.scheduler.step():
            check_integrity(self.tree)


@settings(max_examples=25, deadline=None)
@given(requests, st.sampled_from([0, 1 << 20]))
def test_in_a_crowd_everybody_is_answered_as_if_alone(
    model: LoadedModel,
    backend: NativeBackend,
    wanted: list[tuple[list[int], bytes, int, int | None]],
    ram_bytes: int,
) -> None:
    bench = Bench(backend, ram_bytes)
    ids, cancelled = [], set()
    for tokens, client, steps, cancel in wanted:
        ids.append(bench.ask(tokens, client))
        for _ in range(steps):
            bench.scheduler.step()
        if cancel is not None and cancel < len(ids):
            cancelled.add(ids[cancel])
            bench.scheduler.cancel(ids[cancel])
        check_integrity(bench.tree)
    bench.run()
    for request_id, (tokens, *_) in zip(ids, wanted, strict=True):
        answer, end = bench.tokens(request_id), bench.end(request_id)
        # Others in a batch change its rounding, and with it the choice of two that are level.
        check_answer(model, tokens, answer)
        if end.reason is FinishReason.CANCELLED:
            assert request_id in cancelled
        else:
            assert (len(answer) == ANSWER) == (end.reason is FinishReason.LENGTH)
