"""Virtual token counters: nobody with work waiting falls behind, and nobody saves up by idling."""

from __future__ import annotations

from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.llama.fairness import ANSWER_WEIGHT, PROMPT_WEIGHT, VirtualCounters

CLIENTS = [b"a", b"b", b"c", b"d"]
#: What one turn can amount to.
TURN_MAX = max(64 * PROMPT_WEIGHT, ANSWER_WEIGHT)


class FairnessMachine(RuleBasedStateMachine):
    """Clients come, go and are served, always the one whose counter is smallest."""

    def __init__(self) -> None:
        super().__init__()
        self.counters = VirtualCounters()
        self.open: dict[bytes, int] = {}
        #: Work done for two clients since both have had work waiting, without a pause.
        self.since: dict[tuple[bytes, bytes], dict[bytes, int]] = {}

    @rule(client=st.sampled_from(CLIENTS))
    def arrive(self, client: bytes) -> None:
        self.counters.arrive(client)
        if client not in self.open:
            others = [self.counters.counter(other) for other in self.open]
            assert self.counters.counter(client) >= min(others, default=0), "idling gave credit"
            for other in self.open:
                pair = (min(client, other), max(client, other))
                self.since[pair] = dict.fromkeys(pair, 0)
        self.open[client] = self.open.get(client, 0) + 1

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(sorted(self.open)))
        self.counters.leave(client)
        self.open[client] -= 1
        if not self.open[client]:
            del self.open[client]
            self.since = {pair: done for pair, done in self.since.items() if client not in pair}

    @precondition(lambda self: self.open)
    @rule(prompt=st.integers(0, 64), answer=st.integers(0, 1), times=st.integers(1, 20))
    def serve(self, prompt: int, answer: int, times: int) -> None:
        for _ in range(times):
            client = min(self.open, key=lambda name: (self.counters.counter(name), name))
            if answer:
                self.counters.charge(client, answer=answer)
            else:
                self.counters.charge(client, prompt=prompt)
            work = answer * ANSWER_WEIGHT or prompt * PROMPT_WEIGHT
            for pair, done in self.since.items():
                if client in pair:
                    done[client] += work

    @invariant()
    def served_alike(self) -> None:
        for one, other in combinations(sorted(self.open), 2):
            done = self.since[one, other]
            assert abs(done[one] - done[other]) <= 2 * TURN_MAX
            gap = self.counters.counter(one) - self.counters.counter(other)
            assert abs(gap) <= TURN_MAX

    @invariant()
    def forgets(self) -> None:
        assert len(self.counters) >= len(self.open)
        if not self.open:
            assert len(self.counters) == 0, "remembers guests that are gone"


FairnessMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestFairness = FairnessMachine.TestCase


def test_who_paused_starts_where_the_others_are() -> None:
    counters = VirtualCounters()
    counters.arrive(b"busy")
    counters.charge(b"busy", prompt=1000)
    counters.arrive(b"new")
    assert counters.counter(b"new") == counters.counter(b"busy")


def test_who_was_served_more_waits_also_after_a_pause() -> None:
    counters = VirtualCounters()
    counters.arrive(b"a")
    counters.arrive(b"b")
    counters.charge(b"a", prompt=1000)
    counters.leave(b"a")
    counters.arrive(b"a")
    assert counters.counter(b"a") - counters.counter(b"b") == 1000 * PROMPT_WEIGHT
