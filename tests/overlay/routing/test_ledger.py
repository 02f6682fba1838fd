from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.peer_id import PeerId
from overlay.routing.ledger import HALF_LIFE_S, NEWS_LAG_S, Ledger, Pending

A, B = PeerId(bytes(32)), PeerId(b"\1" * 32)


def test_what_was_sent_counts_at_once_and_only_there() -> None:
    ledger = Ledger()
    ledger.dispatched(A, b"1", 600, 0.0)
    ledger.dispatched(A, b"2", 32, 0.0)
    assert ledger.pending(A, 0.0) == Pending(632, 2)
    assert ledger.pending(B, 0.0) == Pending(0, 0)


def test_it_decays_and_is_settled() -> None:
    ledger = Ledger()
    ledger.dispatched(A, b"1", 600, 0.0)
    assert ledger.pending(A, HALF_LIFE_S) == Pending(300, 1)
    ledger.settled(b"1")
    ledger.settled(b"unknown")
    assert ledger.pending(A, HALF_LIFE_S) == Pending(0, 0)


def test_news_tell_of_what_was_sent_long_enough_before() -> None:
    ledger = Ledger()
    ledger.dispatched(A, b"old", 600, 0.0)
    ledger.dispatched(B, b"other", 600, 0.0)
    ledger.dispatched(A, b"new", 100, NEWS_LAG_S)
    ledger.news(A, NEWS_LAG_S)
    assert ledger.pending(A, NEWS_LAG_S) == Pending(100, 1)
    assert ledger.pending(B, 0.0) == Pending(600, 1)


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 5)), max_size=20))
def test_nothing_is_remembered_for_ever(sent: list[tuple[int, float]]) -> None:
    ledger = Ledger()
    now = 0.0
    for number, (uncached, wait_s) in enumerate(sent):
        now += wait_s
        ledger.dispatched(A, b"%d" % number, uncached, now)
    assert ledger.pending(A, now).prefill_tokens <= sum(uncached for uncached, _ in sent)
    assert ledger.pending(A, now + 100.0) == Pending(0, 0)
