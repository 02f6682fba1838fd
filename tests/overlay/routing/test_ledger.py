from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.peer_id import PeerId
from overlay.routing.ledger import HALF_LIFE_S, Ledger, Pending

A, B = PeerId(bytes(32)), PeerId(b"\1" * 32)
NOTHING = Pending(0, 0, 0)
LAG_S = 1.5


class Book(Ledger):
    """A ledger in which one line is one request."""

    def sent(
        self, peer: PeerId, name: bytes, tokens: int, now: float, *, guest: bool = False
    ) -> None:
        self.dispatched(peer, name, tokens, now, guest=guest, lag_s=LAG_S)


def test_what_was_sent_counts_at_once_and_only_there() -> None:
    ledger = Book()
    ledger.sent(A, b"1", 600, 0.0)
    ledger.sent(A, b"2", 32, 0.0, guest=True)
    assert ledger.pending(A, 0.0) == Pending(632, 2, 32)
    assert ledger.pending(B, 0.0) == NOTHING


def test_it_decays_and_is_settled() -> None:
    ledger = Book()
    ledger.sent(A, b"1", 600, 0.0)
    assert ledger.pending(A, HALF_LIFE_S) == Pending(300, 1, 0)
    ledger.settled(b"1")
    ledger.settled(b"unknown")
    assert ledger.pending(A, HALF_LIFE_S) == NOTHING


def test_a_request_that_goes_elsewhere_counts_there_and_only_there() -> None:
    ledger = Book()
    ledger.sent(A, b"1", 600, 0.0)
    ledger.sent(A, b"2", 100, 0.0)
    ledger.sent(B, b"1", 300, 0.0, guest=True)
    ledger.answering(b"1")
    ledger.sent(B, b"3", 50, 0.0)
    assert ledger.pending(A, 0.0) == Pending(100, 1, 0)
    assert ledger.pending(B, 0.0) == Pending(50, 2, 0)


def test_an_answer_that_has_begun_has_no_prompt_left() -> None:
    ledger = Book()
    ledger.sent(A, b"1", 600, 0.0)
    ledger.answering(b"1")
    ledger.answering(b"unknown")
    assert ledger.pending(A, 0.0) == Pending(0, 1, 0)


def test_news_tell_of_what_was_sent_long_enough_before() -> None:
    ledger = Book()
    ledger.sent(A, b"old", 600, 0.0)
    ledger.sent(B, b"other", 600, 0.0)
    ledger.sent(A, b"new", 100, LAG_S)
    ledger.news(A, LAG_S)
    assert ledger.pending(A, LAG_S) == Pending(100, 1, 0)
    assert ledger.pending(B, 0.0) == Pending(600, 1, 0)


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 5), st.booleans()), max_size=20))
def test_nothing_is_remembered_for_ever(sent: list[tuple[int, float, bool]]) -> None:
    ledger = Book()
    now = 0.0
    for number, (uncached, wait_s, guest) in enumerate(sent):
        now += wait_s
        ledger.sent(A, b"%d" % number, uncached, now, guest=guest)
    pending = ledger.pending(A, now)
    assert pending.guest_tokens <= pending.prefill_tokens <= sum(tokens for tokens, _, _ in sent)
    assert ledger.pending(A, now + 100.0) == NOTHING
