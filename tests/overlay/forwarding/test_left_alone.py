"""Who refused, or fell silent, is not asked before its time."""

from __future__ import annotations

from overlay.forwarding.left_alone import LeftAlone
from overlay.identity.peer_id import PeerId
from overlay.limits import BAN_MAX_S, BAN_S, MEMBERS_MAX

PEER = PeerId(bytes([1]) * 32)
OTHER = PeerId(bytes([2]) * 32)


def test_a_silent_peer_is_left_alone_each_time_for_twice_as_long() -> None:
    left_alone, now = LeftAlone(), 100.0
    for times in range(10):
        left_alone.fell_silent(PEER, now)
        # Requests that waited at the same time count once.
        left_alone.fell_silent(PEER, now + 1)
        lasts_s = min(BAN_S * 2**times, BAN_MAX_S)
        assert left_alone.has(PEER, now + lasts_s - 1)
        now += lasts_s
        assert not left_alone.has(PEER, now)
    assert not left_alone.has(OTHER, now)


def test_who_is_silent_for_months_is_left_alone_as_before() -> None:
    left_alone = LeftAlone()
    for times in range(1100):
        left_alone.fell_silent(PEER, times * BAN_MAX_S)
    assert left_alone.has(PEER, 1100 * BAN_MAX_S - 1)
    assert not left_alone.has(PEER, 1100 * BAN_MAX_S)


def test_a_whole_answer_is_a_new_beginning() -> None:
    left_alone, now = LeftAlone(), 100.0
    for _ in range(3):
        left_alone.fell_silent(PEER, now)
        now += BAN_MAX_S
    left_alone.answered(PEER)
    left_alone.fell_silent(PEER, now)
    assert not left_alone.has(PEER, now + BAN_S)


def test_a_refusal_does_not_end_what_silence_began() -> None:
    left_alone = LeftAlone()
    left_alone.fell_silent(PEER, 100.0)
    left_alone.refused(PEER, 100.0)
    assert left_alone.has(PEER, 100.0)


def test_only_so_many_are_remembered() -> None:
    left_alone = LeftAlone()
    peers = [PeerId(number.to_bytes(32, "big")) for number in range(MEMBERS_MAX + 1)]
    for peer in peers:
        left_alone.refused(peer, 200.0)
    assert not left_alone.has(peers[0], 100.0)
    assert left_alone.has(peers[-1], 100.0)


def test_a_refusal_that_says_nothing_of_a_wait_does_not_shorten_an_earlier_one() -> None:
    """Several requests may have been under way to the peer."""
    left_alone = LeftAlone()
    left_alone.refused(PEER, 60.0)
    left_alone.refused(PEER, 1.0)
    assert left_alone.has(PEER, 59.0)
    assert not left_alone.has(PEER, 60.0)


def test_who_never_answered_is_doubted_once_another_such_let_a_request_down() -> None:
    left_alone, now = LeftAlone(), 100.0
    for number in range(10):
        newcomer = PeerId(number.to_bytes(32, "big"))
        assert not left_alone.doubts(newcomer, now)
        left_alone.let_down(newcomer, now)
        lasts_s = min(BAN_S / 2 * 2**number, BAN_MAX_S)
        assert left_alone.doubts(PEER, now + lasts_s - 1)
        assert not left_alone.has(PEER, now), "where nobody else is, it is asked"
        now += lasts_s


def test_who_answers_is_not_doubted_and_clears_the_others() -> None:
    left_alone = LeftAlone()
    left_alone.answered(PEER)
    left_alone.let_down(OTHER, 100.0)
    assert not left_alone.doubts(PEER, 100.0)
    assert left_alone.doubts(OTHER, 100.0)
    left_alone.answered(OTHER)
    left_alone.let_down(PEER, 100.0)
    newcomer = PeerId(bytes(32))
    assert not left_alone.doubts(newcomer, 100.0), "it was none that let the request down"
    left_alone.let_down(PEER, 100.0)
    assert left_alone.doubts(newcomer, 100.0)


def test_who_is_known_to_answer_says_nothing_of_newcomers() -> None:
    left_alone = LeftAlone()
    left_alone.answered(PEER)
    left_alone.let_down(OTHER, 100.0)
    left_alone.answered(PEER)
    assert left_alone.doubts(OTHER, 100.0)


def test_who_failed_at_its_latest_request_is_a_newcomer_again() -> None:
    left_alone = LeftAlone()
    left_alone.answered(PEER)
    left_alone.failed(PEER)
    assert not left_alone.answers(PEER)
    assert not left_alone.doubts(PEER, 100.0), "it said so in time"
    left_alone.fell_silent(OTHER, 100.0)
    assert left_alone.doubts(PEER, 100.0)


def test_who_fell_silent_does_not_answer_any_more() -> None:
    left_alone = LeftAlone()
    left_alone.answered(PEER)
    left_alone.fell_silent(PEER, 100.0)
    assert not left_alone.answers(PEER)
    assert not left_alone.doubts(OTHER, 100.0), "it was no newcomer"
