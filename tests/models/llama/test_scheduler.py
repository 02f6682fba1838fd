"""The scheduler on a fake backend: whatever happens around a request, its answer is the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from models.engine import (
    CacheChanged,
    EngineStats,
    Failed,
    Finished,
    FinishReason,
    Priority,
    Started,
)
from models.llama import kv_cache, spill
from models.llama.backend import Outcome, Slice
from models.llama.disk import DiskStore
from models.llama.grammar_time import BRANCH_BURST_S, BRANCH_SHARE
from models.llama.kv_cache import KvCache
from models.llama.load import STATS_INTERVAL_S
from models.llama.rate import Rates
from models.llama.scheduler import EVICT_TOKENS, RUNNING_MAX
from models.llama.spill import Spill
from models.llama.text import TextStream
from overlay.errors import ModelFileInvalid
from overlay.limits import ENGINE_QUEUE_MAX
from overlay.prefix.chain import block_hashes
from overlay.prefix.radix import RadixTree
from tests.models.llama.bench import SchedulerBench
from tests.models.llama.fake_backend import (
    BROKEN,
    END_TOKEN,
    VOCABULARY,
    FakeBackend,
    answer_alone,
)
from tests.support.radix_check import check_integrity

MODEL_KEY = b"model"
SECRET = b"secret"
CONTEXT = 160
#: Of an engine that computes nothing yet.
PLACES = RUNNING_MAX + ENGINE_QUEUE_MAX


class Bench(SchedulerBench):
    """A scheduler over the radix tree, on a fake backend."""

    def __init__(
        self,
        *,
        cells: int = 256,
        sequences: int = 8,
        context: int = CONTEXT,
        missing_cells: int = 0,
        ram_bytes: int = 0,
        disk: DiskStore | None = None,
    ) -> None:
        self.backend = FakeBackend(
            cells=cells, sequences=sequences, batch_tokens=100, missing_cells=missing_cells
        )
        self.secret = SECRET
        self.tree = RadixTree(SECRET, MODEL_KEY, cells)
        self.ram_bytes, self.disk = ram_bytes, disk
        rates = Rates()
        clock = self.backend.clock
        self.spill = Spill(ram_bytes, disk, rates)
        self.cache = KvCache(self.backend, self.tree, self.spill, rates, clock)
        super().__init__(self.backend, self.cache, rates, context=context, clock=clock)

    def rekey(self, secret: bytes) -> None:
        self.secret = secret
        self.scheduler.rekey(secret)

    def check(self) -> None:
        """What must hold between any two steps."""
        check_integrity(self.tree)
        assert len(self.backend.memory) == self.tree.size, "a cell is lost, or counted twice"
        for node in self.tree.nodes():
            if node.owner is not None:
                assert self.backend.history(node.owner)[: node.end] == node.path()
        assert not self.tree.released
        pieces = {piece for node in self.tree.nodes() for piece in node.pieces or ()}
        kept = self.spill.ram_tokens + self.spill.disk_tokens
        assert kept == sum(piece.end - piece.start for piece in pieces)
        late = spill.LATE_BYTES_MAX if self.disk is not None else 0
        assert self.spill.ram_bytes <= self.ram_bytes + late

    def expected_blocks(self) -> set[int]:
        return {
            block
            for node in self.tree.nodes()
            for block in block_hashes(self.secret, MODEL_KEY, node.path())
        }


# A few beginnings that many prompts share, some longer than a block.
beginnings = st.sampled_from([[1] * 40, [1] * 20 + [2] * 20, [1] * 20, [3] * 130, []])
prompts = st.builds(
    lambda beginning, rest: beginning + rest,
    beginnings,
    st.lists(st.integers(1, 3), min_size=1, max_size=6),
)


#: Who asks, and how it is computed.
_PRIORITIES = {
    b"": Priority.OWNER,
    b"ann": Priority.GUEST,
    b"ben": Priority.GUEST,
    b"me": Priority.SPARE,
}


class SchedulerMachine(RuleBasedStateMachine):
    """Requests of all kinds on a machine that is too small for them."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled: set[bytes] = set()

    @initialize(ram_bytes=st.sampled_from([0, 60, 100_000]))
    def start(self, ram_bytes: int) -> None:
        self.bench = Bench(cells=CONTEXT, sequences=4, ram_bytes=ram_bytes)

    @rule(
        tokens=prompts,
        max_tokens=st.one_of(st.none(), st.integers(0, 12)),
        client=st.sampled_from([b"", *_PRIORITIES]),
        let_in_by=st.sampled_from([(), (b"ann",), (b"ann", b"ben")]),
    )
    def submit(
        self,
        tokens: list[int],
        max_tokens: int | None,
        client: bytes,
        let_in_by: tuple[bytes, ...],
    ) -> None:
        priority = _PRIORITIES[client]
        self.bench.submit(tokens, max_tokens, priority=priority, client=client, let_in_by=let_in_by)

    @precondition(lambda self: self.bench.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.bench.requests)))
        self.cancelled.add(request_id)
        self.bench.scheduler.cancel(request_id)
        assert isinstance(self.bench.said[request_id][-1], Finished | Failed)

    @precondition(lambda self: self.bench.requests)
    @rule(times=st.integers(1, 5))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.bench.scheduler.step()
            self.bench.check()

    @precondition(lambda self: self.bench.requests and not self.bench.backend.outcomes)
    @rule(outcome=st.sampled_from([Outcome.ABORTED, Outcome.FULL, Outcome.FAILED]))
    def trouble(self, outcome: Outcome) -> None:
        self.bench.backend.outcomes.append(outcome)

    @precondition(lambda self: self.bench.requests)
    @rule()
    def ask_late(self) -> None:
        self.bench.backend.aborts_late = True

    @precondition(lambda self: self.bench.requests)
    @rule(secret=st.sampled_from([b"one", b"two"]))
    def rekey(self, secret: bytes) -> None:
        self.bench.rekey(secret)

    @precondition(lambda self: self.bench.requests and not self.bench.backend.broken_restores)
    @rule()
    def lose_state(self) -> None:
        self.bench.backend.broken_restores += 1

    @invariant()
    def sound(self) -> None:
        self.bench.check()

    def teardown(self) -> None:
        bench = self.bench
        bench.backend.outcomes.clear()
        bench.run()
        bench.check()
        assert bench.blocks == bench.expected_blocks()
        assert bench.stats.running == bench.stats.queued == bench.stats.queued_guests == 0
        assert bench.tree.evictable == bench.tree.size, "somebody left without unlocking"
        owned = sum(node.owner is not None for node in bench.tree.nodes())
        assert bench.stats.sequences_used == owned
        for request_id in bench.requests:
            ends = [e for e in bench.said[request_id] if isinstance(e, Finished | Failed)]
            assert len(ends) == 1, "lost, or ended twice"
            assert ends == bench.said[request_id][-1:]
            if isinstance(ends[0], Finished):
                self.check_answer(request_id, ends[0])
        failed = [e for said in bench.said.values() for e in said if isinstance(e, Failed)]
        assert len(failed) == bench.backend.failed, "only what was told to fail fails"
        assert all(bench.backend.complaint() in event.message for event in failed)

    def check_answer(self, request_id: bytes, end: Finished) -> None:
        bench, request = self.bench, self.bench.requests[request_id]
        room = CONTEXT - len(request.tokens)
        most = request.sampling.max_tokens
        alone = answer_alone(request.tokens, room if most is None else min(most, room))
        if end.reason is FinishReason.CANCELLED:
            assert request_id in self.cancelled
            alone = alone[: end.completion_tokens]
        assert bench.tokens(request_id) == alone
        assert bench.text(request_id) == "".join(chr(ord("A") + token) for token in alone)
        assert end.completion_tokens == len(alone)
        assert 0 <= end.cached_tokens < end.prompt_tokens == len(request.tokens)


SchedulerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=25)
TestScheduler = SchedulerMachine.TestCase


@given(
    missing=st.integers(0, CONTEXT),
    requests=st.lists(
        st.tuples(prompts, st.integers(0, 12), st.sampled_from([*_PRIORITIES])), max_size=12
    ),
)
def test_a_full_cache_loses_no_request(
    missing: int, requests: list[tuple[list[int], int, bytes]]
) -> None:
    """The backend has fewer cells than it says; whoever can fit at all is answered."""
    bench = Bench(cells=CONTEXT, sequences=4, missing_cells=missing)
    for tokens, most, client in requests:
        bench.submit(tokens, most, priority=_PRIORITIES[client], client=client)
        bench.scheduler.step()
    bench.run()
    bench.check()
    for request_id, request in bench.requests.items():
        alone = answer_alone(request.tokens, request.sampling.max_tokens or 0)
        last = bench.said[request_id][-1]
        if isinstance(last, Finished):
            assert bench.tokens(request_id) == alone
        else:
            assert isinstance(last, Failed)
            assert "no room" in last.message
            assert len(request.tokens) + len(alone) > CONTEXT - missing, "it would have fitted"


def test_a_second_request_computes_only_what_is_new() -> None:
    bench = Bench()
    bench.submit([1] * 40 + [2])
    bench.run()
    warm = bench.submit([1] * 40 + [3])
    bench.run()
    started = bench.said[warm][0]
    assert isinstance(started, Started)
    assert started.cached_tokens == 40
    assert bench.end(warm).cached_tokens == 40


def test_the_same_prompt_again_computes_only_its_last_token() -> None:
    bench = Bench()
    first = bench.submit([1] * 40)
    bench.run()
    again = bench.submit([1] * 40)
    bench.run()
    assert bench.end(again).cached_tokens == 39
    assert bench.tokens(again) == bench.tokens(first)
    bench.check()


def test_what_was_asked_for_again_outlives_what_was_not() -> None:
    bench = Bench(cells=1024)
    popular, *once = [1] * 40, *([n] * 150 for n in range(2, 9))
    for prompt in (popular, popular, *once):
        bench.submit(prompt, 1)
        bench.run()
    assert bench.cache.missing(popular[:-1]) == 0, "the last token is computed each time"
    assert bench.cache.missing(once[0]) == 150


def test_concurrent_requests_compute_a_common_prefix_once() -> None:
    bench = Bench(cells=512, context=256)
    common = [1] * 120
    ids = [bench.submit([*common, 2, n]) for n in range(1, 6)]
    bench.run()
    computed = sum(bench.end(i).prompt_tokens - bench.end(i).cached_tokens for i in ids)
    assert computed < 180
    for request_id in ids:
        assert bench.tokens(request_id) == answer_alone(bench.requests[request_id].tokens, 5)


def test_the_owner_goes_before_guests() -> None:
    bench = Bench(cells=64, context=64)
    bench.submit([1] * 50)
    bench.scheduler.step()
    guest = bench.submit([2] * 50, priority=Priority.GUEST)
    owner = bench.submit([3] * 50)
    while not bench.said[owner]:
        bench.scheduler.step()
    assert not bench.said[guest]
    bench.run()
    assert bench.end(guest).reason is not FinishReason.CANCELLED


def test_a_guest_gives_way_to_the_owner_and_goes_on() -> None:
    bench = Bench(cells=64, context=64)
    guest = bench.submit([1] * 40, max_tokens=10, priority=Priority.GUEST)
    while len(bench.tokens(guest)) < 2:
        bench.scheduler.step()
    owner = bench.submit([2] * 50, max_tokens=3)
    bench.scheduler.step()
    assert bench.said[owner], "it was the owner's turn at once"
    bench.run()
    assert bench.tokens(owner) == answer_alone([2] * 50, 3)
    assert bench.tokens(guest) == answer_alone([1] * 40, 10)
    assert bench.stats.preemptions == 1
    assert sum(isinstance(event, Started) for event in bench.said[guest]) == 1


def test_guests_prompts_wait_while_the_owner_has_one() -> None:
    bench = Bench(cells=4096, context=2048)
    bench.scheduler.warm_up()
    guest = bench.submit([1] * 1000, priority=Priority.GUEST)
    bench.scheduler.step()
    computed = bench.tree.size
    owner = bench.submit([2] * 20, max_tokens=1)
    bench.scheduler.step()
    assert bench.ended(owner)
    assert bench.tree.size == computed + 20, "the step was the owner's alone"
    bench.run()
    assert bench.tokens(guest) == answer_alone([1] * 1000, 5)


@pytest.mark.parametrize(("whose", "cut"), [(Priority.GUEST, 64), (Priority.OWNER, 32)])
def test_the_owners_prompt_is_cut_small_for_the_owners_streams_alone(
    whose: Priority, cut: int
) -> None:
    bench = Bench(cells=4096, context=2048)
    bench.backend.token_s = 8e-3
    bench.scheduler.warm_up()
    stream = bench.submit([1], max_tokens=None, priority=whose)
    bench.scheduler.step()
    bench.submit([2] * 99)
    streamed = len(bench.tokens(stream))
    bench.scheduler.step()
    assert [count for _, count in bench.backend.decodes[-1]] == [1, cut]
    assert len(bench.tokens(stream)) == streamed + 1


def test_a_decode_for_guests_prompts_may_be_broken_off() -> None:
    """And a worker breaks it off when the owner asks: nothing is lost but that chunk."""
    bench = Bench(cells=4096, context=2048)
    seen: list[Priority | None] = []
    decode = bench.backend.decode

    def watched(slices: Sequence[Slice]) -> Outcome:
        seen.append(bench.scheduler.yielding)
        return decode(slices)

    bench.backend.decode = watched  # type: ignore[method-assign]
    guest = bench.submit([1] * 40, max_tokens=2, priority=Priority.GUEST)
    bench.backend.outcomes.append(Outcome.ABORTED)
    bench.scheduler.step()
    owner = bench.submit([2] * 10, max_tokens=1)
    bench.scheduler.step()
    assert bench.ended(owner)
    bench.run()
    assert seen == [Priority.GUEST, Priority.OWNER, Priority.GUEST, None], "the last: answers"
    assert bench.tokens(guest) == answer_alone([1] * 40, 2)
    assert bench.scheduler.yielding is None


def test_the_owners_token_is_told_before_those_of_guests_are_chosen() -> None:
    bench = Bench()
    guest = bench.submit([1, 2], priority=Priority.GUEST, client=b"ann")
    bench.scheduler.step()
    owner = bench.submit([3, 4])
    bench.scheduler.step()
    assert bench.told == {guest: answer_alone([1, 2], 1), owner: answer_alone([3, 4], 1)}
    assert bench.tokens(guest) == answer_alone([1, 2], 2)
    assert bench.scheduler.yielding is None


def test_guests_tokens_are_not_chosen_while_the_owner_asks() -> None:
    bench = Bench()
    yielding: list[Priority | None] = []
    ended = bench.backend.ends_generation

    def watched(token: int) -> bool:
        yielding.append(bench.scheduler.yielding)
        return ended(token)

    bench.backend.ends_generation = watched  # type: ignore[method-assign]
    guests = [
        bench.submit([1, number], priority=Priority.GUEST, client=b"ann") for number in (2, 3)
    ]
    for chosen in (1, 2, 2, 3):
        bench.backend.aborts_late = len(bench.backend.decodes) == 2
        bench.scheduler.step()
        bench.check()
        assert [len(bench.tokens(guest)) for guest in guests] == [chosen, chosen]
    assert set(yielding) == {Priority.GUEST}, "so that the worker tells"
    bench.run()
    for number, guest in zip((2, 3), guests, strict=True):
        assert bench.tokens(guest) == answer_alone([1, number], 5)


def test_what_is_spare_is_computed_while_nobody_else_has_a_prompt() -> None:
    bench = Bench(cells=4096, context=2048)
    bench.scheduler.warm_up()
    spare = bench.submit([1] * 1000, max_tokens=1, priority=Priority.SPARE, client=b"me")
    bench.scheduler.step()
    computed = bench.tree.size
    assert computed
    guest = bench.submit([2] * 100, max_tokens=1, priority=Priority.GUEST, client=b"ann")
    while not bench.ended(guest):
        bench.scheduler.step()
    assert bench.tree.size == computed + 100, "the steps were the guest's alone"
    bench.run()
    assert bench.tokens(spare) == answer_alone([1] * 1000, 1)


def test_what_is_spare_gives_its_cells_to_a_guest_and_goes_on() -> None:
    bench = Bench(cells=2048, context=2048)
    bench.scheduler.warm_up()
    spare = bench.submit([1] * 2000, max_tokens=1, priority=Priority.SPARE, client=b"me")
    bench.scheduler.step()
    assert not bench.ended(spare)
    guest = bench.submit([2] * 1000, max_tokens=1, priority=Priority.GUEST, client=b"ann")
    bench.scheduler.step()
    assert bench.said[guest], "it was the guest's turn at once"
    bench.run()
    assert bench.tokens(spare) == answer_alone([1] * 2000, 1)
    assert bench.stats.preemptions == 1


def test_what_is_spare_does_not_slow_answers_down() -> None:
    bench = Bench(cells=4096, context=2048)
    guest = bench.submit([1], max_tokens=None, priority=Priority.GUEST, client=b"ann")
    bench.scheduler.step()
    assert not bench.ended(guest)
    spare = bench.submit([2] * 100, max_tokens=1, priority=Priority.SPARE, client=b"me")
    while not bench.ended(guest):
        bench.scheduler.step()
        assert [count for _, count in bench.backend.decodes[-1]] == [1]
    bench.run()
    assert bench.tokens(spare) == answer_alone([2] * 100, 1)


def test_what_is_spare_is_no_load() -> None:
    bench = Bench(cells=4096, context=2048)
    bench.submit([1] * 1000, max_tokens=1, priority=Priority.SPARE, client=b"me")
    for n in range(5):
        bench.submit([2, n], max_tokens=1, priority=Priority.SPARE, client=b"me")
    told = set[int]()
    while bench.scheduler.step():
        stats = bench.stats
        told.add(stats.queued + stats.running + stats.pending_prefill_tokens)
    assert told == {0}


def test_what_is_spare_takes_no_place_in_guests_queue() -> None:
    bench = Bench(cells=64, context=64)
    for n in range(PLACES + 1):
        bench.submit([1, n % 20], max_tokens=1, priority=Priority.SPARE, client=b"me")
    guest = bench.submit([2] * 10, max_tokens=1, priority=Priority.GUEST, client=b"ann")
    bench.run()
    assert isinstance(bench.said[guest][-1], Finished)
    assert sum(isinstance(said[-1], Failed) for said in bench.said.values()) == 1, "the last"


def test_the_youngest_guest_gives_way_when_all_seats_are_taken() -> None:
    bench = Bench(cells=4096, sequences=64)
    talkative = ([1, a, b] for a in range(50) for b in range(50))
    long = (tokens for tokens in talkative if len(answer_alone(tokens, 40)) == 40)
    guests = [
        bench.submit(next(long), max_tokens=40, priority=Priority.GUEST) for _ in range(RUNNING_MAX)
    ]
    while not all(bench.said[guest] for guest in guests):
        bench.scheduler.step()
    owner = bench.submit([3] * 10)
    bench.backend.now += STATS_INTERVAL_S
    bench.scheduler.step()
    assert bench.said[owner], "it was the owner's turn at once"
    assert bench.stats.pending_guest_tokens == 1, "its prompt is cached"
    before = [len(bench.tokens(guest)) for guest in guests]
    bench.scheduler.step()
    after = [len(bench.tokens(guest)) for guest in guests]
    assert [new - old for old, new in zip(before, after, strict=True)] == [1] * 31 + [0]
    bench.run()
    for guest in guests:
        assert bench.tokens(guest) == answer_alone(bench.requests[guest].tokens, 40)


def test_nobody_gives_way_where_all_just_fit_into_the_cells() -> None:
    bench = Bench(cells=64, context=64)
    bench.submit([3] * 20, max_tokens=1)
    bench.run()
    first = bench.submit([1] * 30, max_tokens=2)
    bench.scheduler.step()
    assert not bench.ended(first)
    second = bench.submit([2] * 33, max_tokens=1)
    bench.scheduler.step()
    assert bench.ended(first)
    assert bench.ended(second)
    assert bench.tree.size == 64


def test_guests_never_displace_each_other() -> None:
    bench = Bench(cells=64, context=64)
    first = bench.submit([1] * 40, max_tokens=10, priority=Priority.GUEST, client=b"ann")
    bench.scheduler.step()
    second = bench.submit([2] * 50, max_tokens=3, priority=Priority.GUEST, client=b"ben")
    while not bench.said[second]:
        bench.scheduler.step()
    assert bench.end(first)
    bench.run()
    assert bench.stats.preemptions == 0


def test_guests_share_the_machine_whoever_asks_more() -> None:
    bench = Bench(cells=4096, sequences=64)
    greedy = [
        bench.submit([n % 50, n // 50, *[1] * 60], priority=Priority.GUEST, client=b"ann")
        for n in range(20)
    ]
    modest = [
        bench.submit([2, n, *[1] * 60], priority=Priority.GUEST, client=b"ben") for n in range(5)
    ]
    while not all(bench.ended(request_id) for request_id in modest):
        bench.scheduler.step()
    done = sum(bench.ended(request_id) for request_id in greedy)
    assert done <= 10, "as much for each, but for what was under way"


def test_the_owner_is_not_kept_out_by_guests_in_the_queue() -> None:
    bench = Bench()
    for _ in range(PLACES):
        bench.submit([1], priority=Priority.GUEST)
    refused = bench.submit([1], priority=Priority.GUEST)
    owner = bench.submit([1])
    assert isinstance(bench.said[refused][-1], Failed)
    bench.run()
    assert bench.end(owner)


def test_guests_with_piles_of_work_keep_nobody_out() -> None:
    bench = Bench()
    piles: dict[bytes, list[bytes]] = {b"ann": [], b"ben": []}
    for _ in range(PLACES // 2):
        for client, ids in piles.items():
            ids.append(bench.submit([1], priority=Priority.GUEST, client=client))
    more = bench.submit([1], priority=Priority.GUEST, client=b"ben")
    modest = [bench.submit([1], priority=Priority.GUEST, client=b"col") for _ in range(3)]
    bench.run()
    assert all(isinstance(bench.said[each][-1], Finished) for each in modest)
    gone = [each for each, said in bench.said.items() if isinstance(said[-1], Failed)]
    assert sorted(gone) == sorted([more, piles[b"ben"][-1], piles[b"ann"][-1], piles[b"ben"][-2]])
    bench.check()


@pytest.mark.parametrize("let_in_by", [(), (b"ann",)])
def test_a_guest_does_not_take_all_seats_before_anything_is_computed(
    let_in_by: tuple[bytes, ...],
) -> None:
    """What those that are seated lack counts already; and whom a guest let in counts as it does."""
    bench = Bench(cells=4096, context=1024, sequences=2)
    names = [b"x", b"y", b"z"] if let_in_by else [b"ann"] * 3
    for n, name in enumerate(names):
        bench.submit([n, 1], priority=Priority.GUEST, client=name, let_in_by=let_in_by)
    ben = bench.submit([9, 1], priority=Priority.GUEST, client=b"ben")
    bench.scheduler.step()
    seated = [each for each, said in bench.said.items() if said]
    assert len(seated) == 2
    assert ben in seated


def test_a_crowd_that_one_guest_let_in_keeps_nobody_out() -> None:
    """However many they are, they have the places of one; and share those among them alike."""
    bench = Bench()
    crowd = [
        bench.submit([1], priority=Priority.GUEST, client=b"%d" % n, let_in_by=(b"ann",))
        for n in range(PLACES)
    ]
    modest = [bench.submit([1], priority=Priority.GUEST, client=b"ben") for _ in range(3)]
    more = bench.submit([1], priority=Priority.GUEST, client=b"0", let_in_by=(b"ann",))
    late = bench.submit([1], priority=Priority.GUEST, client=b"new", let_in_by=(b"ann",))
    bench.run()
    assert all(isinstance(bench.said[each][-1], Finished) for each in modest)
    gone = {each for each, said in bench.said.items() if isinstance(said[-1], Failed)}
    assert gone == {*crowd[-3:], more, late}, "nobody of the crowd had two places"
    bench.check()


def test_a_crowd_that_one_guest_let_in_computes_no_more_than_another_guest() -> None:
    bench = Bench(cells=4096, context=2048)
    for n in range(6):
        bench.submit(
            [n, *[1] * 600],
            max_tokens=1,
            priority=Priority.GUEST,
            client=b"%d" % n,
            let_in_by=(b"ann",),
        )
    modest = [
        bench.submit([10 + n, *[2] * 600], max_tokens=1, priority=Priority.GUEST, client=b"ben")
        for n in range(3)
    ]
    while not all(map(bench.ended, modest)):
        assert bench.scheduler.step()
    crowd = [each for each in bench.requests if each not in modest and bench.ended(each)]
    assert len(crowd) <= 4, "they had as much as ben, and what was under way"
    bench.run()
    bench.check()


def test_what_is_spare_displaces_nobody_and_is_not_displaced_by_the_owner() -> None:
    bench = Bench()
    for _ in range(PLACES):
        bench.submit([1], priority=Priority.GUEST, client=b"ann")
    spare = bench.submit([1], priority=Priority.SPARE, client=b"me")
    for _ in range(ENGINE_QUEUE_MAX + 1):
        owner = bench.submit([1])
    gone = [each for each, said in bench.said.items() if said and isinstance(said[-1], Failed)]
    assert gone == [spare, owner]


def test_a_question_does_not_wait_for_a_long_prompt_before_it() -> None:
    bench = Bench(cells=4096, context=2048)
    long = bench.submit([1] * 1000)
    bench.scheduler.step()
    short = bench.submit([2] * 20, max_tokens=1)
    bench.scheduler.step()
    assert bench.ended(short)
    assert not bench.tokens(long)


def test_warming_up_leaves_speeds_and_nothing_else() -> None:
    bench = Bench()
    bench.scheduler.warm_up()
    bench.check()
    bench.submit([1, 2], max_tokens=0)
    bench.run()
    assert round(bench.stats.prefill_rate) == round(bench.stats.decode_rate) == 1000
    assert bench.stats.prompt_tokens == 2


def test_an_engine_that_cannot_compute_says_so_before_the_first_request() -> None:
    bench = Bench()
    bench.backend.outcomes.append(Outcome.FAILED)
    with pytest.raises(ModelFileInvalid, match="told to fail"):
        bench.scheduler.warm_up()


def test_a_long_prompt_does_not_stall_a_stream() -> None:
    bench = Bench(cells=1024, context=512)
    stream = bench.submit([1], max_tokens=None)
    bench.scheduler.step()
    bench.submit([2] * 300)
    before = len(bench.tokens(stream))
    for _ in range(4):
        bench.scheduler.step()
    assert len(bench.tokens(stream)) == before + 4


def test_prompts_are_cut_at_tiles() -> None:
    bench = Bench(cells=1024, context=512)
    bench.submit([1] * 300, max_tokens=0)
    bench.run()
    counts = [count for decode in bench.backend.decodes for _, count in decode]
    assert [sum(counts[: n + 1]) for n in range(len(counts))] == [64, 128, 192, 256, 300]


def test_cancelling_ends_a_prefill_and_keeps_its_work() -> None:
    bench = Bench(cells=512, context=256)
    request_id = bench.submit([1] * 200)
    bench.scheduler.step()
    done = bench.tree.size
    assert 0 < done < 200
    bench.scheduler.cancel(request_id)
    assert bench.end(request_id).reason is FinishReason.CANCELLED
    bench.run()
    warm = bench.submit([1] * 200)
    bench.run()
    assert bench.end(warm).cached_tokens == done


def test_a_prompt_that_nobody_waited_for_is_no_miss() -> None:
    bench = Bench(cells=512, context=256)
    waiting, computing = bench.submit([2] * 200), bench.submit([1] * 200)
    bench.scheduler.cancel(waiting)
    bench.scheduler.step()
    bench.scheduler.cancel(computing)
    bench.submit([3, 4], max_tokens=1, generated=[5])  # It was whole where it was begun.
    bench.run()
    assert (bench.stats.requests, bench.stats.prompt_tokens) == (3, 0)
    streaming = bench.submit([3, 4])
    bench.scheduler.step()
    bench.scheduler.cancel(streaming)
    bench.run()
    assert bench.stats.prompt_tokens == 2


def test_a_stop_string_ends_the_answer_before_it() -> None:
    bench = Bench()
    alone = answer_alone([1, 2], 5)
    assert len(alone) == 5
    letters = "".join(chr(ord("A") + token) for token in alone)
    request_id = bench.submit([1, 2], max_tokens=5, stop=(letters[2:4],))
    bench.run()
    assert bench.text(request_id) == letters[:2]
    assert bench.tokens(request_id) == alone[:4], "each is told, though its text may wait"
    assert bench.end(request_id).reason is FinishReason.STOP


def test_an_answer_goes_on_where_another_engine_failed() -> None:
    alone = answer_alone([1, 2], 5)
    letters = "".join(chr(ord("A") + token) for token in alone)
    for done in range(6):
        for delivered in range(done + 1):
            bench = Bench()
            request_id = bench.submit(
                [1, 2],
                max_tokens=5,
                # The last letter waits for what might follow it.
                stop=(letters[-1] + "!",),
                generated=alone[:done],
                delivered_chars=delivered,
            )
            bench.run()
            assert bench.tokens(request_id) == alone[done:]
            shown = bench.text(request_id)
            assert letters[:delivered] + shown == letters
            assert bench.end(request_id).completion_tokens == 5


def test_text_from_elsewhere_is_searched_for_stop_strings_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pushed: list[bytes] = []
    push = TextStream.push

    def noted(stream: TextStream, piece: bytes) -> str:
        pushed.append(piece)
        return push(stream, piece)

    monkeypatch.setattr(TextStream, "push", noted)
    Bench().submit([1, 2], generated=[3] * 50, stop=("DDE",))
    assert pushed == [b"D" * 50]


def test_the_owner_does_not_wait_for_guests_grammars_to_be_read() -> None:
    """Neither for those that came before, nor for more than is under way."""
    bench = Bench()
    bench.backend.grammar_s = 1.0
    for number in range(5):
        bench.submit([1, 2], grammar=f"{number}", priority=Priority.GUEST, client=b"ann")
    assert bench.backend.grammars == []
    bench.scheduler.step()
    assert bench.backend.grammars == ["0"]
    own = bench.submit([3], 1, grammar="own")
    bench.scheduler.step()
    assert bench.backend.grammars == ["0", "own"]
    assert bench.ended(own)
    bench.run()
    assert bench.backend.grammars == ["0", "own", "1", "2", "3", "4"]


def test_broken_grammars_hold_up_nobody_and_end_their_own_requests() -> None:
    bench = Bench()
    bench.backend.grammar_s = 1.0
    guests = [
        bench.submit([1, 2], grammar=BROKEN, priority=Priority.GUEST, client=b"ann")
        for _ in range(3)
    ]
    assert bench.scheduler.step(), "there is more to do"
    assert [bench.ended(guest) for guest in guests] == [True, False, False]
    own = bench.submit([3], 1)
    bench.scheduler.step()
    assert bench.ended(own)
    bench.run()
    for guest in guests:
        (failed,) = bench.said[guest]
        assert isinstance(failed, Failed)
        assert failed.code == "invalid-request"
    assert bench.stats.queued == bench.stats.running == 0


@pytest.mark.parametrize("client", [b"", b"ann"])
def test_slow_grammars_of_guests_take_a_share_of_the_time_from_others(client: bytes) -> None:
    """Whether they are slow to be read or to be followed. Where nobody else runs, they have all."""
    bench = Bench(cells=1024, sequences=40, context=200)
    priority = Priority.GUEST if client else Priority.OWNER
    other = bench.submit([24], 100, priority=priority, client=client)
    bench.scheduler.step()
    bench.backend.grammar_s = 2.0
    crowd = []
    for number in range(8):
        grammar = BROKEN if number % 2 else f"slow {number}"
        bench.backend.follow_s[grammar] = 0.5
        client = f"key {number}".encode()
        crowd.append(
            bench.submit(
                [1 + number],
                grammar=grammar,
                priority=Priority.GUEST,
                client=client,
                let_in_by=(b"eve",),
            )
        )
    while not bench.ended(other):
        bench.scheduler.step()
    computed = sum(count for decode in bench.backend.decodes for _, count in decode)
    computing_s = computed * bench.backend.token_s
    least = BRANCH_BURST_S + BRANCH_SHARE * bench.backend.now
    assert bench.backend.now - computing_s < least + 2.0, "the last one may be a long one"
    assert len(bench.tokens(other)) == 100
    bench.run()
    assert all(map(bench.ended, crowd))


@pytest.mark.parametrize("branch", [b"eve", b"ann"])
def test_a_grammar_that_is_quick_does_not_wait_for_one_that_is_slow(branch: bytes) -> None:
    """Of another branch not at all, and of its own for a token before each of the quick one's."""
    bench = Bench(cells=1024, context=200)
    bench.backend.token_s = 0.2
    bench.scheduler.warm_up()  # Whose turn it is depends on how fast prompts are.
    bench.backend.follow_s["slow"] = 1.0
    own = bench.submit([24], 150)
    guest = Priority.GUEST
    slow = bench.submit(
        [40], 20, grammar="slow", priority=guest, client=b"key", let_in_by=(b"eve",)
    )
    quick = bench.submit([2], grammar="quick", priority=guest, client=b"bob", let_in_by=(branch,))
    while not bench.ended(quick):
        bench.scheduler.step()
    assert len(bench.tokens(slow)) == (6 if branch == b"eve" else 1)
    assert not bench.ended(own)
    bench.run()
    assert bench.tokens(slow) == answer_alone([40], 20), "whatever was rolled back between"
    assert bench.tokens(quick) == answer_alone([2], 5)


def test_no_tokens_wanted_warms_the_cache() -> None:
    bench = Bench()
    request_id = bench.submit([1] * 40, max_tokens=0)
    bench.run()
    assert bench.end(request_id).reason is FinishReason.LENGTH
    assert bench.tree.match_prefix([1] * 40).length == 40


def test_refusals_are_one_clear_sentence() -> None:
    bench = Bench()
    cases = {
        "invalid-request": [bench.submit([]), bench.submit([VOCABULARY]), bench.submit([-1])],
        "context-length-exceeded": [bench.submit([1] * CONTEXT)],
    }
    for code, ids in cases.items():
        for request_id in ids:
            (failed,) = bench.said[request_id]
            assert isinstance(failed, Failed)
            assert failed.code == code
    assert isinstance(failed, Failed)
    assert f"{CONTEXT} tokens" in failed.message


def test_a_full_queue_refuses() -> None:
    bench = Bench()
    ids = [bench.submit([1]) for _ in range(PLACES + 1)]
    (failed,) = bench.said[ids[-1]]
    assert isinstance(failed, Failed)
    assert failed.code == "engine-busy"
    bench.run()
    assert all(bench.end(request_id) for request_id in ids[:-1])


def test_a_failed_decode_fails_its_requests_and_no_others() -> None:
    bench = Bench()
    failing = bench.submit([1, 2])
    bench.backend.outcomes.append(Outcome.FAILED)
    bench.run()
    (_, failed) = bench.said[failing]
    assert isinstance(failed, Failed)
    assert failed.code == "engine-failed"
    fine = bench.submit([1, 2])
    bench.run()
    assert bench.tokens(fine) == answer_alone([1, 2], 5)
    bench.check()


def test_another_secret_hashes_everything_anew() -> None:
    bench = Bench()
    bench.submit([1] * 64, max_tokens=0)
    bench.run()
    heard: list[CacheChanged] = []
    bench.scheduler._emit = lambda event: (
        heard.append(event) if isinstance(event, CacheChanged) else None
    )
    known, bench.stats = bench.stats, EngineStats()
    bench.scheduler.rekey(b"other")
    assert bench.stats == known  # for a mesh that knows nothing of this engine yet
    assert heard == [CacheChanged(block_hashes(b"other", MODEL_KEY, [1] * 64), (), reset=True)]


def test_what_can_be_had_elsewhere_gives_way_first() -> None:
    bench = Bench(cells=4 * EVICT_TOKENS, context=2 * EVICT_TOKENS)
    prompts = [[token] * EVICT_TOKENS for token in (1, 2, 3)]
    for prompt in prompts:
        bench.submit(prompt, max_tokens=0)
        bench.run()
    bench.scheduler.copies_changed({block_hashes(SECRET, MODEL_KEY, prompts[1])[-1]: 1})
    bench.submit([4] * (EVICT_TOKENS + 1), max_tokens=0)
    bench.run()
    assert [bench.cache.missing(prompt) for prompt in prompts] == [0, EVICT_TOKENS, 0]
    bench.check()


def test_speeds_are_measured() -> None:
    bench = Bench()
    bench.submit([1] * 60, max_tokens=8)
    bench.run()
    assert round(bench.stats.prefill_rate) == 1000
    assert round(bench.stats.decode_rate) == 1000
    assert bench.stats.steps == len(bench.backend.decodes)
    assert bench.stats.computing_seconds == pytest.approx(bench.backend.now)
    assert bench.stats.step_seconds == pytest.approx(bench.backend.now)
    assert END_TOKEN not in answer_alone([1] * 60, 8)


def test_requests_that_found_something_cached_are_hits() -> None:
    bench = Bench()
    for tokens in ([1] * 40, [1] * 39 + [2], [3]):
        bench.submit(tokens)
        bench.run()
    assert (bench.stats.requests, bench.stats.hits) == (3, 1)
    assert bench.stats.cached_tokens == 39


def test_what_was_evicted_comes_back_without_computing() -> None:
    bench = Bench(cells=128, context=120, ram_bytes=10_000)
    first = bench.submit([1] * 100)
    bench.run()
    bench.submit([2] * 100)
    bench.run()
    assert bench.stats.spilled_tokens
    known = bench.blocks
    again = bench.submit([1] * 100)
    bench.run()
    bench.check()
    assert bench.end(again).cached_tokens == 99
    assert bench.tokens(again) == bench.tokens(first)
    assert bench.stats.restored_tokens
    assert known <= bench.blocks, "what is spilled can be reused, and others are told so"


def test_what_does_not_fit_into_ram_is_forgotten_coldest_first() -> None:
    bench = Bench(cells=128, context=120, ram_bytes=100)
    for token in (1, 2, 3):
        bench.submit([token] * 100, max_tokens=0)
        bench.run()
        bench.check()
    assert bench.tree.match_prefix([3] * 100).length == 100
    assert bench.tree.match_prefix([2] * 100).length > bench.tree.match_prefix([1] * 100).length
    assert bench.stats.dropped_pieces


def test_state_that_is_lost_is_computed_again() -> None:
    bench = Bench(cells=128, context=120, ram_bytes=10_000)
    first = bench.submit([1] * 100)
    bench.run()
    bench.submit([2] * 100)
    bench.run()
    bench.backend.broken_restores = 1
    again = bench.submit([1] * 100)
    bench.run()
    bench.check()
    assert bench.end(again).cached_tokens < 99
    assert bench.tokens(again) == bench.tokens(first)


def test_restoring_does_not_stall_a_stream() -> None:
    bench = Bench(cells=300, context=250, ram_bytes=10_000)
    bench.submit([1] * 200, max_tokens=0)
    bench.run()
    bench.submit([2] * 200, max_tokens=0)
    bench.run()
    assert bench.stats.spilled_tokens
    stream = bench.submit([3], max_tokens=30)
    bench.scheduler.step()
    again = bench.submit([1] * 200)
    bench.backend.restore_s = 0.007  # faster than computing, but too slow for one step
    steps = 0
    while not bench.said[again]:
        before = len(bench.tokens(stream))
        bench.scheduler.step()
        assert len(bench.tokens(stream)) == before + 1
        steps += 1
    assert steps > 2
    bench.run()
    assert bench.end(again).cached_tokens == 199
    assert bench.tokens(again) == answer_alone([1] * 200, 5)


@pytest.mark.parametrize("ram_bytes", [0, 100_000])
def test_what_nobody_uses_makes_way_for_those_who_compute(
    ram_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_cache, "IDLE_TOKENS", 50)
    bench = Bench(cells=500, ram_bytes=ram_bytes)
    for token in range(1, 5):
        bench.submit([token] * 80, max_tokens=0)
        bench.run()
    bench.submit([7], max_tokens=20)
    bench.run()
    bench.check()
    assert (bench.tree.size < 80) == (ram_bytes > 0)
    again = bench.submit([1] * 80, max_tokens=0)
    bench.run()
    assert bench.end(again).cached_tokens == 79
