"""A guest's quota of tokens: never more within a minute, and all of it in the end."""

from __future__ import annotations

import math
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from overlay.forwarding.terms import TokenQuota
from overlay.identity.peer_id import PeerId
from overlay.limits import QUOTA_WINDOW_S

ANN, BOB = (PeerId(bytes([number]) * 32) for number in (1, 2))
ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))


def test_what_is_spent_counts_for_a_minute() -> None:
    quota = TokenQuota(100)
    assert quota.reserve(ANN, ONE, 80, 0.0) == 0
    assert quota.spend(ONE, 80, 10.0) == 0
    quota.release(ONE)
    assert quota.spent(10.0) == {ANN: 80}
    assert quota.reserve(ANN, TWO, 21, 10.0) == QUOTA_WINDOW_S
    assert quota.reserve(ANN, TWO, 21, 40.0) == 30.0
    assert quota.reserve(ANN, TWO, 20, 40.0) == 0
    assert quota.reserve(ANN, THREE, 80, 70.0) == 0
    assert quota.spent(70.0) == {}


def test_no_account_is_kept_of_who_came_only_once() -> None:
    quota = TokenQuota(100)
    for number in range(10):
        guest, now = PeerId(number.to_bytes(32, "big")), number * QUOTA_WINDOW_S
        assert quota.reserve(guest, ONE, 5, now) == 0
        assert quota.spend(ONE, 5, now) == 0
        quota.release(ONE)
        assert quota._spent.keys() == {guest}


def test_what_is_reserved_is_nobody_elses_and_what_is_left_of_it_is_free() -> None:
    quota = TokenQuota(100)
    assert quota.reserve(ANN, ONE, 90, 0.0) == 0
    assert quota.reserve(ANN, TWO, 20, 0.0) > 0
    assert quota.reserve(BOB, TWO, 20, 0.0) == 0, "each guest has an own quota"
    assert quota.spend(ONE, 5, 1.0) == 0
    quota.release(ONE)
    assert quota.reserve(ANN, THREE, 95, 1.0) == 0


def test_what_outgrows_its_reservation_needs_what_is_left() -> None:
    quota = TokenQuota(100)
    assert quota.reserve(ANN, ONE, 10, 0.0) == 0
    assert quota.reserve(ANN, TWO, 60, 0.0) == 0
    assert quota.spend(ONE, 40, 1.0) == 0
    assert quota.spend(ONE, 1, 2.0) == 59.0, "until what it had itself is old"
    assert quota.spent(2.0) == {ANN: 40}, "nothing of what was refused counts"
    assert quota.spend(TWO, 60, 2.0) == 0


def test_more_than_a_minutes_quota_never_fits() -> None:
    assert TokenQuota(100).reserve(ANN, ONE, 101, 0.0) == math.inf
    assert TokenQuota(100).reserve(ANN, ONE, 100, 0.0) == 0


@given(st.lists(st.floats(0.0, 30.0), max_size=40), st.integers(1, 50))
def test_who_waits_as_told_is_served(pauses: list[float], tokens: int) -> None:
    quota, now = TokenQuota(50), 0.0
    for pause in pauses:
        now += pause
        wait_s = quota.reserve(ANN, ONE, tokens, now)
        if wait_s:
            now += wait_s + 1e-6
            assert quota.reserve(ANN, ONE, tokens, now) == 0
        assert quota.spend(ONE, tokens, now) == 0
        quota.release(ONE)


class Guests(RuleBasedStateMachine):
    """Whatever guests do, in whatever order."""

    @initialize(per_minute=st.integers(1, 200))
    def begin(self, per_minute: int) -> None:
        self.now = 0.0
        self.quota = TokenQuota(per_minute)
        self.open: dict[bytes, PeerId] = {}
        self.had: dict[PeerId, list[tuple[float, int]]] = defaultdict(list)
        self.asked = 0

    @rule(quarters=st.integers(0, 160))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule(guest=st.sampled_from([ANN, BOB]), tokens=st.integers(0, 250))
    def ask(self, guest: PeerId, tokens: int) -> None:
        self.asked += 1
        request_id = self.asked.to_bytes(16, "big")
        wait_s = self.quota.reserve(guest, request_id, tokens, self.now)
        assert (wait_s == math.inf) == (tokens > self.quota.per_minute)
        if not wait_s:
            self.open[request_id] = guest

    @rule(data=st.data(), tokens=st.integers(0, 100))
    def compute(self, data: st.DataObject, tokens: int) -> None:
        if self.open:
            request_id = data.draw(st.sampled_from(sorted(self.open)))
            wait_s = self.quota.spend(request_id, tokens, self.now)
            assert 0 <= wait_s <= QUOTA_WINDOW_S
            if not wait_s:
                self.had[self.open[request_id]].append((self.now, tokens))

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.open:
            request_id = data.draw(st.sampled_from(sorted(self.open)))
            del self.open[request_id]
            self.quota.release(request_id)

    @invariant()
    def no_minute_holds_more_than_the_quota(self) -> None:
        for had in getattr(self, "had", {}).values():
            for end, _ in had:
                window = sum(n for at, n in had if end - QUOTA_WINDOW_S < at <= end)
                assert window <= self.quota.per_minute


TestGuests = Guests.TestCase
