"""Virtual token counters: nobody with work waiting falls behind, and nobody saves up by idling."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.engine import Client
from models.fairness import (
    ANSWER_WEIGHT,
    PROMPT_WEIGHT,
    VirtualCounters,
    branches_of,
    fork_of,
)

#: Two whom the founder let in, one of them with a crowd; and somebody of that crowd with another.
CLIENTS: list[Client] = [
    (b"a", b"a"),
    (b"b", b"b"),
    (b"b", b"c", b"c"),
    (b"b", b"d", b"d"),
    (b"b", b"d", b"e", b"e"),
]
#: What one turn can amount to.
TURN_MAX = max(64 * PROMPT_WEIGHT, ANSWER_WEIGHT)


class FairnessMachine(RuleBasedStateMachine):
    """Clients come, go and are served, always the one whose turn it is."""

    def __init__(self) -> None:
        super().__init__()
        self.counters = VirtualCounters()
        self.open: Counter[Client] = Counter()
        #: Work done for two branches of one fork since both have had work waiting, without a pause.
        self.since: dict[tuple[Client, Client], Counter[Client]] = {}

    def branches(self) -> set[Client]:
        return {branch for client in self.open for branch in branches_of(client)}

    def count(self, branch: Client) -> int:
        client = next(each for each in self.open if each[: len(branch)] == branch)
        return self.counters.served(client)[len(branch) - 1]

    @rule(client=st.sampled_from(CLIENTS))
    def arrive(self, client: Client) -> None:
        before = {branch: self.count(branch) for branch in self.branches()}
        self.counters.arrive(client)
        self.open[client] += 1
        for branch in branches_of(client):
            if branch in before:
                continue
            beside = [other for other in before if other[:-1] == branch[:-1]]
            floor = min((before[other] for other in beside), default=0)
            assert self.count(branch) >= floor, "idling gave credit"
            for other in beside:
                self.since[min(branch, other), max(branch, other)] = Counter()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(sorted(self.open)))
        self.counters.leave(client)
        self.open[client] -= 1
        self.open += Counter()  # without those that have none
        here = self.branches()
        self.since = {pair: done for pair, done in self.since.items() if here.issuperset(pair)}

    @precondition(lambda self: self.open)
    @rule(prompt=st.integers(0, 64), answer=st.integers(0, 1), times=st.integers(1, 20))
    def serve(self, prompt: int, answer: int, times: int) -> None:
        for _ in range(times):
            client = min(self.open, key=lambda each: (self.counters.served(each), each))
            if answer:
                self.counters.charge(client, answer=answer)
            else:
                self.counters.charge(client, prompt=prompt)
            work = answer * ANSWER_WEIGHT or prompt * PROMPT_WEIGHT
            for pair, done in self.since.items():
                for branch in {*pair} & {*branches_of(client)}:
                    done[branch] += work

    @invariant()
    def served_alike(self) -> None:
        for (one, other), done in self.since.items():
            assert abs(done[one] - done[other]) <= 2 * TURN_MAX
            assert abs(self.count(one) - self.count(other)) <= TURN_MAX

    @invariant()
    def forgets(self) -> None:
        assert len(self.counters) >= len(self.branches())
        if not self.open:
            assert len(self.counters) == 0, "remembers guests that are gone"


FairnessMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestFairness = FairnessMachine.TestCase


def test_who_paused_starts_where_the_others_are() -> None:
    counters = VirtualCounters()
    counters.arrive((b"busy",))
    counters.charge((b"busy",), prompt=1000)
    counters.arrive((b"new",))
    assert counters.served((b"new",)) == counters.served((b"busy",))


def test_who_was_served_more_waits_also_after_a_pause() -> None:
    counters = VirtualCounters()
    counters.arrive((b"a",))
    counters.arrive((b"b",))
    counters.charge((b"a",), prompt=1000)
    counters.leave((b"a",))
    counters.arrive((b"a",))
    assert counters.served((b"a",)) == [1000 * PROMPT_WEIGHT]
    assert counters.served((b"b",)) == [0]


def test_clients_part_where_they_are_in_different_branches() -> None:
    assert fork_of((b"b", b"b"), (b"b", b"c", b"c")) == ((b"b", b"b"), (b"b", b"c"))
    assert fork_of((b"a", b"a"), (b"b", b"c", b"c")) == ((b"a",), (b"b",))
    assert fork_of((b"a", b"a"), (b"a", b"a")) is None
    assert all(fork_of(one, other) for one, other in combinations(CLIENTS, 2))


def test_who_leaves_one_fork_is_still_known_at_others() -> None:
    counters = VirtualCounters()
    counters.arrive((b"a", b"x"))
    counters.arrive((b"a", b"y"))
    counters.charge((b"a", b"x"), prompt=1000)
    counters.leave((b"a", b"x"))
    counters.arrive((b"b",))
    counters.leave((b"b",))
    counters.arrive((b"a", b"x"))
    assert counters.served((b"a", b"x")) == [1000 * PROMPT_WEIGHT] * 2
