"""What an eviction queue finds, whatever became of the values since things were offered."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from overlay.prefix import eviction
from overlay.prefix.eviction import EvictionQueue
from tests.support.radix_check import knows

MANY = 2 * eviction._TIDY_MIN


@dataclass(eq=False)
class Thing:
    value: float
    candidate: bool = True


offers = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 9), st.booleans()), min_size=1, max_size=30
)


@given(offers, st.integers(0, 30))
def test_of_all_candidates_the_least_valuable_is_found(
    offered: list[tuple[int, int, bool]], crowded_at: int
) -> None:
    """Values fall as well as rise; a crowd of others makes the queue tidy itself up."""
    things = [Thing(0, candidate=False) for _ in range(5)]
    crowd = [Thing(100) for _ in range(MANY)]
    queue: EvictionQueue[Thing] = EvictionQueue(lambda thing: thing.candidate)
    for step, (which, value, candidate) in enumerate(offered):
        if step == crowded_at:
            for other in crowd:
                queue.offer(other)
        things[which].value, things[which].candidate = value, candidate
        queue.offer(things[which])
    if crowded_at >= len(offered):
        for other in crowd:
            queue.offer(other)
    candidates = [thing for thing in things if thing.candidate]
    found = queue.coldest()
    assert found is not None
    assert found.value == min([thing.value for thing in candidates], default=100)
    assert all(knows(queue, thing) for thing in candidates)
