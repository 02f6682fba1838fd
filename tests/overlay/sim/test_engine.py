"""The engine's model: what others may know of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine import (
    Chunk,
    EngineEvent,
    EngineStats,
    Finished,
    FinishReason,
    GenerationRequest,
    Priority,
    Sampling,
)
from overlay.limits import ENGINE_QUEUE_MAX
from overlay.prefix.chain import block_hashes
from overlay.prefix.radix import RadixTree
from overlay.sim.clock import Clock
from overlay.sim.engine import SimEngine, blocks_cached
from overlay.sim.machine import Machine

SECRET, KEY = b"secret", b"model"
#: Who asks for what is computed for nobody yet.
SPARE = b"this node"


def test_prompts_are_computed_slower_beside_answers() -> None:
    clock, events = Clock(), list[EngineEvent]()
    tree = RadixTree(SECRET, KEY, 4096)
    answer = tuple(range(1000, 1050))
    engine = SimEngine(Machine(), tree, 4096, clock, lambda _: answer, events.append)
    alone = engine.prefill_rate()
    # A step of half a second takes 0.05 s of its own.
    assert alone < Machine().prefill_rate
    engine.submit(GenerationRequest(b"request", tuple(range(100))))
    while not any(isinstance(event, Chunk) for event in events):
        assert clock.step()
    beside = engine.prefill_rate()
    assert beside < alone
    while clock.step():
        pass
    assert engine.prefill_rate() == alone


def test_an_answer_ends_where_the_request_does() -> None:
    clock, events = Clock(), list[EngineEvent]()
    tree = RadixTree(SECRET, KEY, 4096)
    engine = SimEngine(Machine(), tree, 4096, clock, lambda _: (7,) * 128, events.append)
    prefetch = GenerationRequest(b"prefetch", tuple(range(64)), Sampling(max_tokens=1))
    engine.submit(prefetch)
    while clock.step():
        pass
    [finished] = [event for event in events if isinstance(event, Finished)]
    assert finished.completion_tokens == 1
    assert tree.size == 64


class Bench:
    """An engine in virtual time, and when each request got its first token and its end."""

    def __init__(self, cells: int = 8192) -> None:
        self.clock = Clock()
        self.answers: dict[bytes, int] = {}
        self.first: dict[bytes, float] = {}
        self.finished: dict[bytes, float] = {}
        self.ended: dict[bytes, FinishReason] = {}
        self.told: dict[bytes, list[int]] = {}
        #: Requests and prompt tokens that were told of, without repetitions.
        self.loads = [(0, 0)]
        tree = RadixTree(SECRET, KEY, cells)
        self.engine = SimEngine(
            Machine(),
            tree,
            cells,
            self.clock,
            lambda request_id: tuple(range(7000, 7000 + self.answers[request_id])),
            self.hear,
        )

    def ask(
        self, at_s: float, name: bytes, prompt: range, answer: int, client: bytes = b""
    ) -> None:
        """``client`` names a guest, or is `SPARE`; the owner has no name."""
        self.answers[name] = answer
        priority = Priority.GUEST if client else Priority.OWNER
        if client == SPARE:
            priority = Priority.SPARE
        path = (client,) if client else ()
        request = GenerationRequest(name, tuple(prompt), priority=priority, client=path)
        self.clock.at(at_s, self.engine.submit, request)

    def hear(self, event: EngineEvent) -> None:
        if isinstance(event, Chunk):
            self.first.setdefault(event.request_id, self.clock.now)
            self.told.setdefault(event.request_id, []).extend(event.tokens)
        elif isinstance(event, Finished):
            assert event.request_id not in self.ended
            self.ended[event.request_id] = event.reason
            if event.reason is not FinishReason.CANCELLED:
                self.finished[event.request_id] = self.clock.now
        elif isinstance(event, EngineStats):
            load = event.queued + event.running, event.pending_prefill_tokens
            if self.loads[-1:] != [load]:
                self.loads.append(load)

    def run(self) -> None:
        while self.clock.step():
            pass


def test_the_owner_computes_alone_and_breaks_a_guests_step_off() -> None:
    alone, beside = Bench(), Bench()
    alone.ask(0.3, b"own", range(600), 2)
    beside.ask(0.0, b"guest", range(1000, 1600), 2, client=b"friend")
    beside.ask(0.3, b"own", range(600), 2)
    alone.run()
    beside.run()
    assert beside.first[b"own"] == pytest.approx(alone.first[b"own"])
    # What the guest had computed in 0.3 s is computed again.
    assert beside.first[b"guest"] > 0.3 + 2 * Machine().cold_seconds(600)
    assert beside.engine.busy_s == pytest.approx(beside.finished[b"guest"])


def test_a_guest_with_a_pile_of_work_keeps_nobody_out() -> None:
    pile = {b"%d" % number for number in range(2 * ENGINE_QUEUE_MAX)}
    refused = []
    for others in (0, 1):
        bench = Bench()
        for name in sorted(pile):
            bench.ask(0.0, name, range(1000, 1600), 1, client=b"friend")
        for _ in range(others):
            bench.ask(0.0, b"modest", range(2000, 2600), 1, client=b"other friend")
        bench.run()
        assert (b"modest" in bench.finished) is bool(others)
        refused.append(pile - bench.finished.keys())
    assert refused[0] < refused[1]
    assert len(refused[1] - refused[0]) == 1


def test_what_is_spare_holds_nobody_up_and_is_no_load() -> None:
    alone, beside = Bench(), Bench()
    alone.ask(0.3, b"guest", range(600), 50, client=b"friend")
    beside.ask(0.0, b"spare", range(1000, 1600), 1, client=SPARE)
    beside.ask(0.3, b"guest", range(600), 50, client=b"friend")
    alone.run()
    beside.run()
    assert beside.first[b"guest"] == pytest.approx(alone.first[b"guest"])
    assert beside.finished[b"guest"] == pytest.approx(alone.finished[b"guest"])
    assert beside.first[b"spare"] > beside.finished[b"guest"]
    assert beside.loads == alone.loads


def test_what_is_spare_gives_its_cells_to_a_guest() -> None:
    bench = Bench(cells=1024)
    bench.ask(0.0, b"spare", range(600), 1, client=SPARE)
    bench.ask(1.0, b"guest", range(5000, 5900), 10, client=b"friend")
    bench.run()
    assert bench.finished[b"guest"] < bench.first[b"spare"]


def test_guests_take_turns_by_what_they_were_served() -> None:
    bench = Bench()
    for n in range(6):
        bench.ask(0.0, b"greedy %d" % n, range(1000 * n, 1000 * n + 400), 2, client=b"greedy")
    bench.ask(0.1, b"modest", range(9000, 9400), 2, client=b"modest")
    bench.run()
    order = sorted(bench.first, key=bench.first.__getitem__)
    assert order.index(b"modest") <= 1


def test_the_youngest_guest_gives_way_and_goes_on_later() -> None:
    bench = Bench(cells=1024)
    bench.ask(0.0, b"guest", range(600), 300, client=b"friend")
    bench.ask(6.0, b"own", range(5000, 5900), 10)
    bench.run()
    assert bench.first[b"guest"] < 6.0 < bench.finished[b"own"] < bench.finished[b"guest"]
    assert bench.told[b"guest"] == list(range(7000, 7300)), "no token lost or doubled"


@given(
    asked=st.lists(
        st.tuples(
            st.floats(0, 20),
            st.integers(0, 3),
            st.integers(1, 700),
            st.integers(1, 120),
            st.sampled_from([b"", b"", b"a", b"b", SPARE]),
        ),
        max_size=12,
    ),
    cancelled=st.lists(st.tuples(st.floats(0, 25), st.integers(0, 11)), max_size=3),
)
@settings(deadline=None)
def test_every_answer_is_told_once_and_whole(
    asked: list[tuple[float, int, int, int, bytes]], cancelled: list[tuple[float, int]]
) -> None:
    bench = Bench(cells=1024)
    for n, (at_s, group, length, answer, client) in enumerate(asked):
        bench.ask(at_s, b"%d" % n, range(1000 * group, 1000 * group + length), answer, client)
    for at_s, n in cancelled:
        bench.clock.at(at_s, bench.engine.cancel, b"%d" % n)
    bench.run()
    gone = {b"%d" % n for _, n in cancelled}
    for name, length in bench.answers.items():
        whole = list(range(7000, 7000 + length))
        if name in gone and name not in bench.finished:
            assert whole[: len(bench.told.get(name, []))] == bench.told.get(name, [])
        else:
            assert bench.told[name] == whole
            assert name in bench.finished
    assert bench.ended.keys() == bench.answers.keys()
    assert bench.engine.present == 0
    assert bench.engine.busy_s <= bench.clock.now + 1e-6


@given(
    prompts=st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=5),
    asked=st.lists(st.integers(0, 2), max_size=5),
)
def test_the_match_is_the_leading_blocks_that_are_cached(
    prompts: list[list[int]], asked: list[int]
) -> None:
    def hashes(words: list[int]) -> tuple[int, ...]:
        return block_hashes(SECRET, KEY, [word for word in words for _ in range(32)])

    cached = {block for words in prompts for block in hashes(words)}
    wanted = hashes(asked)
    expected = next((n for n, block in enumerate(wanted) if block not in cached), len(wanted))
    assert blocks_cached(wanted, cached) == expected
