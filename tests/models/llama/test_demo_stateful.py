"""The engine on the demo model: whatever comes, tree and KV cache agree, and answers are right."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import llama_cpp
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from models.llama.kv_cache import KvCache
from models.llama.loaded_model import LoadedModel
from models.llama.native import NativeBackend
from models.llama.rate import Rates
from models.llama.spill import Spill
from overlay.prefix.radix import RadixTree
from tests.models.llama.bench import SchedulerBench
from tests.models.llama.cold import check_answer
from tests.support.radix_check import check_integrity

CELLS: Final = 192
ANSWER: Final = 4
#: Rounding moves this model's logits by up to 1.3 (decision 10). A token that follows from another
#: past is many times as far away.
NEAR: Final = 2.0
#: Without shrinking: on a real model that would take an hour.
SETTINGS: Final = settings(
    max_examples=4, stateful_step_count=10, deadline=None, phases=[Phase.generate]
)

# Beginnings of text that the model knows how to go on with, so that its best token is a clear one.
SENTENCE: Final = "One, two, three, four, five, six, seven, eight, nine, ten. "
texts = st.tuples(st.integers(1, 4), st.sampled_from(["One, two,", "One, two, three, four,"]))


@pytest.fixture(scope="module")
def model(demo_model: Path) -> LoadedModel:
    return LoadedModel(demo_model, lambda share: None)


def test_whatever_comes(model: LoadedModel) -> None:
    backend = NativeBackend(model, cells=CELLS, threads=2)

    class Machine(EngineMachine):
        def __init__(self) -> None:
            super().__init__(model, backend)

    run_state_machine_as_test(Machine, settings=SETTINGS)


def tokens_of(model: LoadedModel, text: str) -> list[int]:
    buffer = (llama_cpp.llama_token * 512)()
    data = text.encode()
    count = llama_cpp.llama_tokenize(model.vocab, data, len(data), buffer, 512, True, False)
    return list(buffer[:count])


class EngineMachine(RuleBasedStateMachine):
    """Requests and cancellations on a KV cache that is too small for them."""

    def __init__(self, model: LoadedModel, backend: NativeBackend) -> None:
        super().__init__()
        self.model, self.backend = model, backend
        for sequence in range(backend.sequences):
            backend.forget(sequence, 0, None)
        rates = Rates()
        self.tree = RadixTree(b"secret", b"model", CELLS)
        spill = Spill(1 << 20, None, rates)
        cache = KvCache(backend, self.tree, spill, rates, time.monotonic)
        self.bench = SchedulerBench(backend, cache, rates, context=CELLS, clock=time.monotonic)

    @rule(text=texts)
    def submit(self, text: tuple[int, str]) -> None:
        sentences, rest = text
        self.bench.submit(tokens_of(self.model, SENTENCE * sentences + rest), ANSWER)

    @rule(times=st.integers(1, 4))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.bench.scheduler.step()
            self.agree()

    @precondition(lambda self: self.bench.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.bench.requests)))
        self.bench.scheduler.cancel(request_id)
        assert self.bench.ended(request_id)

    @invariant()
    def agree(self) -> None:
        """llama.cpp has, of each tip's sequence, what the tree says that it has."""
        check_integrity(self.tree)
        memory = llama_cpp.llama_get_memory(self.backend._context)
        for node in self.tree.nodes():
            if node.owner is not None:
                assert llama_cpp.llama_memory_seq_pos_min(memory, node.owner) == 0
                assert llama_cpp.llama_memory_seq_pos_max(memory, node.owner) >= node.end - 1

    def teardown(self) -> None:
        while self.bench.scheduler.step():
            self.agree()
        assert self.tree.evictable == self.tree.size, "somebody left without unlocking"
        for request_id, request in self.bench.requests.items():
            self.bench.end(request_id)
            check_answer(self.model, request.tokens, self.bench.tokens(request_id), NEAR)
