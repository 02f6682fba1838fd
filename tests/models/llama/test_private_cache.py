"""Models whose memory cannot be cut: each run for itself, whole sequences reused, answers right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.engine import (
    Failed,
    Finished,
    FinishReason,
    Priority,
)
from models.llama.backend import Outcome
from models.llama.chunks import TILE
from models.llama.private_cache import PrivateCache
from models.llama.rate import Rates
from overlay.prefix.chain import block_hashes
from tests.models.llama.bench import SchedulerBench
from tests.models.llama.fake_backend import FakeBackend, answer_alone

MODEL_KEY = b"model"
SECRET = b"secret"
CONTEXT = 400


def check_integrity(cache: PrivateCache) -> None:
    """Assert what must hold between any two calls."""
    everyone = [*cache._seated.values(), *cache._kept]
    numbers = [sequence.number for sequence in everyone]
    assert sorted([*numbers, *cache._free]) == list(range(cache._backend.sequences))
    holders = Counter(id(cells) for sequence in everyone for cells in sequence.cells)
    distinct = {id(cells): cells for sequence in everyone for cells in sequence.cells}
    assert all(cells.holders == holders[at] for at, cells in distinct.items())
    assert cache._used == sum(cells.count for cells in distinct.values())
    for kept in cache._kept:
        assert len(kept.tokens) == sum(cells.count for cells in kept.cells) > 0
    assert cache._blocks == Counter(k.block for k in cache._kept if k.block is not None)
    assert len({tuple(kept.tokens) for kept in cache._kept}) == len(cache._kept)


class Bench(SchedulerBench):
    """A scheduler over such a memory, on a fake backend."""

    def __init__(self, *, cells: int = 4096, sequences: int = 8) -> None:
        self.backend = FakeBackend(
            cells=cells, sequences=sequences, batch_tokens=256, divisible=False
        )
        self.cache = PrivateCache(self.backend, SECRET, MODEL_KEY)
        super().__init__(
            self.backend, self.cache, Rates(), context=CONTEXT, clock=self.backend.clock
        )

    def ask(self, tokens: Sequence[int], max_tokens: int | None = 5) -> Finished:
        """A request that has the machine for itself; its answer is as it must be."""
        request_id = self.submit(tokens, max_tokens)
        self.run()
        self.check()
        assert self.tokens(request_id) == answer_alone(tokens, max_tokens or 0)
        return self.end(request_id)

    def check(self) -> None:
        """What must hold between any two steps."""
        check_integrity(self.cache)
        assert len(self.backend.memory) == self.cache.cells_used, "a cell is lost, or counted twice"
        assert self.cache.cells_free == self.backend.cells - len(self.backend.memory)


# A few beginnings that many prompts share, longer than some tiles.
beginnings = st.sampled_from([[1] * 100, [1] * 70 + [2] * 70, [3] * 130, []])
prompts = st.builds(
    lambda beginning, rest: beginning + rest,
    beginnings,
    st.lists(st.integers(1, 3), min_size=1, max_size=6),
)


class PrivateCacheMachine(RuleBasedStateMachine):
    """Requests of all kinds, and troubles, on a machine that is too small for them."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(cells=CONTEXT, sequences=4)
        self.cancelled: set[bytes] = set()

    @rule(
        tokens=prompts,
        max_tokens=st.one_of(st.none(), st.integers(0, 12)),
        priority=st.sampled_from(Priority),
    )
    def submit(self, tokens: list[int], max_tokens: int | None, priority: Priority) -> None:
        self.bench.submit(tokens, max_tokens, priority=priority)

    @precondition(lambda self: self.bench.requests)
    @rule(data=st.data(), more=st.lists(st.integers(1, 3), min_size=1, max_size=6))
    def next_turn(self, data: st.DataObject, more: list[int]) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.bench.requests)))
        tokens = [*self.bench.requests[request_id].tokens, *self.bench.tokens(request_id), *more]
        if len(tokens) < CONTEXT:
            self.bench.submit(tokens, 3)

    @precondition(lambda self: self.bench.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.bench.requests)))
        self.cancelled.add(request_id)
        self.bench.scheduler.cancel(request_id)

    @precondition(lambda self: self.bench.requests)
    @rule(times=st.integers(1, 5))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.bench.scheduler.step()
            self.bench.check()

    @precondition(lambda self: self.bench.requests and not self.bench.backend.outcomes)
    @rule(outcome=st.sampled_from([Outcome.ABORTED, Outcome.FULL]))
    def trouble(self, outcome: Outcome) -> None:
        self.bench.backend.outcomes.append(outcome)

    @precondition(lambda self: self.bench.requests)
    @rule()
    def rekey(self) -> None:
        self.bench.scheduler.rekey(SECRET)

    @invariant()
    def sound(self) -> None:
        self.bench.check()

    def teardown(self) -> None:
        bench = self.bench
        bench.backend.outcomes.clear()
        bench.run()
        bench.check()
        assert bench.stats.running == bench.stats.queued == 0
        assert bench.cache.evictable == bench.cache.cells_used, "somebody left without leaving"
        for request_id, request in bench.requests.items():
            room = CONTEXT - len(request.tokens)
            most = request.sampling.max_tokens
            alone = answer_alone(request.tokens, room if most is None else min(most, room))
            end = bench.end(request_id)
            if end.reason is FinishReason.CANCELLED:
                assert request_id in self.cancelled
                alone = alone[: end.completion_tokens]
            assert bench.tokens(request_id) == alone
            assert 0 <= end.cached_tokens < end.prompt_tokens == len(request.tokens)
        for kept in bench.blocks:
            assert kept in self.blocks_of_everything()

    def blocks_of_everything(self) -> set[int]:
        bench = self.bench
        sequences = {number for cell in bench.backend.memory for number in cell.sequences}
        return {
            block
            for number in sequences
            for block in block_hashes(SECRET, MODEL_KEY, bench.backend.history(number))
        }


PrivateCacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestPrivateCache = PrivateCacheMachine.TestCase


def turns(bench: Bench, tokens: list[int], count: int) -> list[int]:
    """A conversation: each prompt is the last one, its answer and something new."""
    cached = []
    for turn in range(count):
        tokens = [*tokens, 40 + turn]
        cached.append(bench.ask(tokens).cached_tokens)
        tokens = [*tokens, *answer_alone(tokens, 5)]
    return cached


def test_a_next_turn_computes_only_what_is_new() -> None:
    bench = Bench()
    first, *later = turns(bench, [1] * 40, 5)
    assert first == 0
    # All but the answer's last token and the new one: nobody needed what follows on that.
    assert later == [45, 51, 57, 63]


def test_conversations_side_by_side_all_stay_warm() -> None:
    bench = Bench(sequences=8)
    conversations = [[talker] * 40 for talker in range(1, 6)]
    for turn in range(4):
        for tokens in conversations:
            tokens.append(40 + turn)
            assert (bench.ask(tokens).cached_tokens > 0) == (turn > 0)
            tokens += answer_alone(tokens, 5)


def test_a_shared_beginning_is_reused_once_it_was_seen_to_be_shared() -> None:
    bench = Bench()
    cached = [bench.ask([*[1] * 200, *[n] * 80]).cached_tokens for n in range(2, 6)]
    assert cached == [0, 0, 192, 192]


def test_a_beginning_that_is_shared_by_those_who_run_is_reused_by_the_next() -> None:
    bench = Bench()
    ids = [bench.submit([*[1] * 200, *[n] * 80]) for n in (2, 3)]
    bench.run()
    for request_id in ids:
        prompt = bench.requests[request_id].tokens
        assert bench.tokens(request_id) == answer_alone(prompt, 5)
    assert bench.ask([*[1] * 200, *[4] * 80]).cached_tokens == 192


def test_the_same_prompt_again_begins_at_its_last_tile() -> None:
    bench = Bench()
    prompt = [1] * 150
    assert bench.ask(prompt).cached_tokens == 0
    assert bench.ask(prompt).cached_tokens == 2 * TILE
    assert bench.ask([*prompt[:140], 2, 3]).cached_tokens == 2 * TILE


def test_what_a_failed_decode_left_is_computed_again() -> None:
    bench = Bench()
    request_id = bench.submit([1] * 150)
    while not bench.tokens(request_id):
        bench.scheduler.step()
    bench.backend.outcomes.append(Outcome.ABORTED)
    bench.run()
    assert bench.tokens(request_id) == answer_alone([1] * 150, 5)
    # From the mark at its last tile, not from the start.
    assert bench.backend.decodes[-5][0][1] < TILE
    bench.check()


def test_after_a_failed_decode_a_run_may_begin_beyond_its_own_next_mark() -> None:
    bench = Bench()
    prompt = [1] * (2 * TILE + 2)
    slow = bench.submit(prompt, priority=Priority.SPARE)
    bench.scheduler.step()
    fast = bench.submit(prompt)
    while not bench.ended(fast):
        bench.scheduler.step()
    bench.backend.outcomes.append(Outcome.ABORTED)
    bench.run()
    assert bench.tokens(slow) == answer_alone(prompt, 5)
    assert bench.end(slow).cached_tokens == 2 * TILE


def test_a_failed_decode_fails_its_requests_and_no_others() -> None:
    bench = Bench()
    failing = bench.submit([1, 2])
    bench.backend.outcomes.append(Outcome.FAILED)
    bench.run()
    assert isinstance(bench.said[failing][-1], Failed)
    bench.ask([1, 2])


def test_more_requests_than_sequences_wait_their_turn() -> None:
    bench = Bench(sequences=2)
    prompts = [[n] * 90 for n in range(1, 8)]
    ids = [bench.submit(prompt) for prompt in prompts]
    while bench.scheduler.step():
        bench.check()
        assert bench.stats.running <= 2
    for request_id, prompt in zip(ids, prompts, strict=True):
        assert bench.tokens(request_id) == answer_alone(prompt, 5)


def test_the_longest_unused_conversation_goes_first() -> None:
    bench = Bench(sequences=3)
    for talker in (1, 2, 3, 4):
        bench.ask([talker] * 40)
    again = [bench.ask([n] * 40 + answer_alone([n] * 40, 5) + [9]) for n in (4, 3, 1)]
    assert [end.cached_tokens > 0 for end in again] == [True, True, False]


def test_no_more_is_evicted_than_is_needed() -> None:
    bench = Bench()
    for talker in (1, 2, 3):
        bench.ask([talker] * 40, 0)
    assert [bench.cache.evict(tokens) for tokens in (1, 40, 41)] == [40, 40, 40]


def test_a_mark_takes_no_conversations_place() -> None:
    bench = Bench(sequences=2)
    (cached,) = turns(bench, [1] * 40, 1)
    bench.ask([2] * 150)
    again = bench.ask([*[1] * 40, 40, *answer_alone([*[1] * 40, 40], 5), 41])
    assert (cached, again.cached_tokens) == (0, 45)


def test_a_mark_that_was_used_gives_way_to_no_new_one() -> None:
    bench = Bench(sequences=4)
    cached = [bench.ask([*[1] * 200, *[n] * 80]).cached_tokens for n in range(2, 8)]
    assert cached == [0, 0, 192, 192, 192, 192]


def test_only_whole_sequences_are_published() -> None:
    """By the last block: who has only the beginning in common must not be sent here."""
    bench = Bench()
    prompt = [1] * 150
    bench.ask(prompt, 0)
    blocks = block_hashes(SECRET, MODEL_KEY, prompt)
    assert bench.blocks == {blocks[3], blocks[-1]}
    bench.scheduler.rekey(b"other")
    again = block_hashes(b"other", MODEL_KEY, prompt)
    assert bench.blocks == {again[3], again[-1]}
