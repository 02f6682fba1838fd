"""The scheduler with real llama.cpp underneath, on a tiny model and with too few cells."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine import (
    Chunk,
    EngineEvent,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Priority,
    Sampling,
)
from models.llama.kv_cache import KvCache
from models.llama.loaded_model import LoadedModel
from models.llama.native import NativeBackend
from models.llama.rate import Rates
from models.llama.scheduler import Scheduler
from models.llama.spill import Spill
from overlay.prefix.radix import RadixTree
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
def backend(tmp_path_factory: pytest.TempPathFactory) -> NativeBackend:
    path: Path = write_tiny_gguf(tmp_path_factory.mktemp("crowd") / "m.gguf", context=CONTEXT)
    return NativeBackend(LoadedModel(path, lambda share: None), cells=CELLS, threads=1)


class Bench:
    """A scheduler over the shared backend, whose cells are all free."""

    def __init__(self, backend: NativeBackend, ram_bytes: int = 0) -> None:
        for sequence in range(backend.sequences):
            backend.forget(sequence, 0, None)
        rates = Rates()
        self.said: dict[bytes, list[EngineEvent]] = {}
        self.tree = RadixTree(b"secret", b"model", CELLS)
        cache = KvCache(backend, self.tree, Spill(ram_bytes, None, rates), rates, time.monotonic)
        self.scheduler = Scheduler(
            backend, cache, rates, context_length=CONTEXT, clock=time.monotonic, emit=self.hear
        )

    def hear(self, event: EngineEvent) -> None:
        if isinstance(event, Chunk | Finished | Failed):
            self.said[event.request_id].append(event)

    def submit(self, tokens: list[int], client: bytes = b"") -> bytes:
        request_id = len(self.said).to_bytes(2, "big")
        self.said[request_id] = []
        self.scheduler.submit(
            GenerationRequest(
                request_id,
                tuple(tokens),
                Sampling(temperature=0, max_tokens=ANSWER),
                Priority.GUEST if client else Priority.OWNER,
                client=client,
            )
        )
        return request_id

    def run(self) -> None:
        while self.scheduler.step():
            check_integrity(self.tree)

    def tokens(self, request_id: bytes) -> list[int]:
        said = self.said[request_id]
        return [token for event in said if isinstance(event, Chunk) for token in event.tokens]


@settings(max_examples=25, deadline=None)
@given(requests, st.sampled_from([0, 1 << 20]))
def test_in_a_crowd_everybody_is_answered_as_if_alone(
    backend: NativeBackend,
    wanted: list[tuple[list[int], bytes, int, int | None]],
    ram_bytes: int,
) -> None:
    bench = Bench(backend, ram_bytes)
    ids, cancelled = [], set()
    for tokens, client, steps, cancel in wanted:
        ids.append(bench.submit(tokens, client))
        for _ in range(steps):
            bench.scheduler.step()
        if cancel is not None and cancel < len(ids):
            cancelled.add(ids[cancel])
            bench.scheduler.cancel(ids[cancel])
        check_integrity(bench.tree)
    bench.run()
    answers = [bench.tokens(request_id) for request_id in ids]
    for request_id, answer, (tokens, *_) in zip(ids, answers, wanted, strict=True):
        end = bench.said[request_id][-1]
        assert isinstance(end, Finished), end
        assert sum(isinstance(event, Finished) for event in bench.said[request_id]) == 1
        cold = Bench(backend)
        alone_id = cold.submit(tokens)
        cold.run()
        alone = cold.tokens(alone_id)
        if end.reason is FinishReason.CANCELLED:
            assert request_id in cancelled
            assert answer == alone[: len(answer)]
        else:
            assert answer == alone
