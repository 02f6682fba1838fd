"""The engine's model: what others may know of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.engine import Chunk, EngineEvent, GenerationRequest
from overlay.prefix.chain import block_hashes
from overlay.prefix.radix import RadixTree
from overlay.sim.clock import Clock
from overlay.sim.engine import SimEngine, blocks_cached
from overlay.sim.machine import Machine

SECRET, KEY = b"secret", b"model"


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
