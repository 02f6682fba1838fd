"""What leaves through a relay, against the relay's own allowance. The test owns the clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlay.admission.circuit import SEAL_BYTES
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    RELAY_BYTES_PER_S,
    RELAY_MESSAGES_PER_S,
    RELAY_QUEUE_BYTES_MAX,
    RELAY_SENDERS_IN_ALL,
    RELAY_SENDERS_PER_BRANCH,
    RELAY_SENDERS_PER_RECEIVER,
    RELAYED_MESSAGE_BYTES_MAX,
    SEND_QUEUE_MESSAGES_MAX,
)
from overlay.transport.pacing import Pace
from overlay.transport.relaying import Allowance

ME, *PEERS = (NodeKey.from_seed(bytes([n]) * 32).peer_id for n in range(1, 12))

sizes = st.one_of(st.integers(0, 200), st.integers(0, RELAYED_MESSAGE_BYTES_MAX))


class Paced(RuleBasedStateMachine):
    """One end, several receivers; the relay refuses nothing, and each lane is a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pace: Pace[PeerId] = Pace(self.now)
        self.relay = Allowance()
        self.model: dict[PeerId, deque[bytes]] = {peer: deque() for peer in PEERS[:3]}
        self.number = itertools.count()

    @initialize(size=sizes, count=st.integers(1, 1500))
    def begin(self, size: int, count: int) -> None:
        self.put(PEERS[0], size, count)

    @rule(lane=st.sampled_from(PEERS[:3]), size=sizes, count=st.integers(1, 1500))
    def put(self, lane: PeerId, size: int, count: int) -> None:
        bytes_ = sum(map(len, self.model[lane]))
        for _ in range(count):
            message = next(self.number).to_bytes(8, "big").ljust(size, b"x")
            model = self.model[lane]
            fits = not model or (
                len(model) < SEND_QUEUE_MESSAGES_MAX
                and bytes_ + len(message) <= RELAY_QUEUE_BYTES_MAX
            )
            assert self.pace.put(lane, message, self.now) == fits
            if not fits:
                break
            model.append(message)
            bytes_ += len(message)

    @rule(size=st.integers(33, 8192), count=st.integers(1, 500))
    def say(self, size: int, count: int) -> None:
        for _ in range(count):
            if self.pace.may_say(size, self.now):
                self.relay.take(ME, PEERS[0], size, self.now, head=ME)

    @rule(lane=st.sampled_from(PEERS[:3]), percent=st.integers(-10, 200))
    def room(self, lane: PeerId, percent: int) -> None:
        self.pace.room(lane, percent, self.now)

    @precondition(lambda self: any(self.model.values()))
    @rule(lane=st.sampled_from(PEERS[:3]))
    def close(self, lane: PeerId) -> None:
        self.pace.close(lane)
        self.model[lane].clear()

    @precondition(lambda self: any(self.model.values()))
    @rule(passes_s=st.floats(0, 3))
    def leave(self, passes_s: float) -> None:
        end = self.now + passes_s
        while self.now < end:
            while (taken := self.pace.take(self.now)) is not None:
                lane, message = taken
                assert message == self.model[lane].popleft()
                self.relay.take(ME, lane, len(message) + SEAL_BYTES, self.now, head=ME)
            wait_s = self.pace.wait_s(self.now)
            self.now += min(max(wait_s or 0.0, 1e-3), passes_s)

    @invariant()
    def what_waits_is_known(self) -> None:
        assert (self.pace.wait_s(self.now) is None) == (not any(self.model.values()))
        for lane, waiting in self.model.items():
            assert self.pace.waits(lane) == bool(waiting)
        assert self.relay.refused == 0


Paced.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestPaced = Paced.TestCase


def leaves(pace: Pace[PeerId], until: float, refill: Callable[[], None]) -> list[PeerId]:
    """Whose messages leave from 0 on, if `refill` is called before each."""
    now, left = 0.0, []
    while now < until:
        refill()
        while (taken := pace.take(now)) is not None:
            left.append(taken[0])
            refill()
        wait_s = pace.wait_s(now)
        assert wait_s is not None
        now += max(wait_s, 0.005)
    return left


@pytest.mark.parametrize("size", [10, 10_000])
def test_most_of_what_a_relay_grants_is_used(size: int) -> None:
    pace: Pace[PeerId] = Pace(0.0)

    def refill() -> None:
        pace.put(PEERS[0], bytes(size), 0.0)

    per_s = min(RELAY_MESSAGES_PER_S, RELAY_BYTES_PER_S / size)
    assert len(leaves(pace, 5.0, refill)) >= 5 * per_s * 0.8


def test_receivers_take_turns_and_none_waits_for_a_crowded_one() -> None:
    pace: Pace[PeerId] = Pace(0.0)
    pace.room(PEERS[2], 5, 0.0)

    def refill() -> None:
        for lane in PEERS[:3]:
            pace.put(lane, bytes(100), 0.0)

    left = leaves(pace, 5.0, refill)
    counts = [left.count(lane) for lane in PEERS[:3]]
    assert abs(counts[0] - counts[1]) <= 1
    assert 0 < counts[2] < counts[0] / 3


def test_to_several_receivers_no_more_leaves_at_once_than_to_one() -> None:
    at_once = []
    for lanes in (1, 3):
        pace: Pace[PeerId] = Pace(0.0)
        for lane in PEERS[:lanes]:
            for _ in range(1000):
                pace.put(lane, bytes(100), 0.0)
        at_once.append(sum(pace.take(0.0) is not None for _ in range(3000)))
    assert 1 < at_once[0] == at_once[1] < 1000


def test_what_waits_does_not_hold_up_what_a_link_says_itself() -> None:
    pace: Pace[PeerId] = Pace(0.0)
    while pace.put(PEERS[0], bytes(100_000), 0.0):
        pass
    while pace.take(0.0):
        pass
    assert pace.take(0.0) is None
    assert pace.may_say(50, 0.0)


def test_who_says_too_much_of_itself_waits_like_others() -> None:
    pace: Pace[PeerId] = Pace(0.0)
    said = sum(pace.may_say(50, 0.0) for _ in range(10_000))
    assert 50 < said < RELAY_MESSAGES_PER_S
    assert pace.may_say(50, 1.0)


def test_it_is_idle_once_all_has_left_and_flowed_in_again() -> None:
    pace: Pace[PeerId] = Pace(0.0)
    assert pace.idle(0.0)
    pace.put(PEERS[0], bytes(1000), 0.0)
    assert pace.take(0.0) == (PEERS[0], bytes(1000))
    assert not pace.idle(1.0), "what the relay told of the receiver would be forgotten"
    pace.close(PEERS[0])
    assert not pace.idle(0.0)
    assert pace.idle(1.0)


@pytest.mark.parametrize("alike", [False, True], ids=["of many branches", "of one branch"])
@pytest.mark.parametrize("apart", [False, True], ids=["to one", "each to another"])
@pytest.mark.parametrize("size", [30, 5000])
@given(senders=st.integers(1, 10), delay_ms=st.integers(1, 60), seed=st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_a_crowd_of_senders_shares_what_is_granted(
    size: int, apart: bool, alike: bool, senders: int, delay_ms: int, seed: int
) -> None:
    """All begin at once, flat out. What the relay tells comes with the answers that each gets."""
    receiver, *ends = PEERS[: senders + 1]
    receivers = {end: end if apart else receiver for end in ends}
    heads = {end: ME if alike else end for end in ends}
    seconds = 6.0
    rng, relay = random.Random(seed), Allowance()
    paces: dict[PeerId, Pace[PeerId]] = {end: Pace(0.0) for end in ends}
    #: When, whose, and how much room the relay told.
    under_way: list[tuple[float, int, PeerId, int]] = []
    number = itertools.count()
    now = 0.0
    while now < seconds:
        while under_way and under_way[0][0] <= now:
            _, _, end, percent = heapq.heappop(under_way)
            paces[end].room(receivers[end], percent, now)
        for end, pace in paces.items():
            receiver = receivers[end]
            while pace.put(receiver, bytes(size), now):
                pass
            while pace.take(now):
                relay.take(
                    end, receiver, size + SEAL_BYTES, now, head=heads[end]
                )  # or raises LimitExceeded
            told = now + 2 * delay_ms / 1000 * rng.uniform(0.8, 1.2)
            heapq.heappush(
                under_way, (told, next(number), end, relay.room(receiver, now, head=heads[end]))
            )
        now += 0.02
    if apart:
        most = RELAY_SENDERS_PER_BRANCH if alike else RELAY_SENDERS_IN_ALL
    else:
        most = 1 if alike else RELAY_SENDERS_PER_RECEIVER
    per_s = min(RELAY_MESSAGES_PER_S, RELAY_BYTES_PER_S / (size + SEAL_BYTES))
    assert relay.messages >= 0.7 * seconds * min(senders, most) * per_s
