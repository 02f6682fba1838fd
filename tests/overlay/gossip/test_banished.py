"""Whom nobody is heard of who tells of it: up to which incarnation, and until when."""

from __future__ import annotations

from overlay.gossip.banished import NEWS_ROUNDS, Banished
from overlay.identity.peer_id import PeerId

OUT, OTHER = (PeerId(bytes([number]) * 32) for number in (1, 2))
INTERVAL_S = 2.0
NEWS_S = NEWS_ROUNDS * INTERVAL_S


def test_who_was_known_is_shut_out_for_good_until_it_starts_anew() -> None:
    banished = Banished(INTERVAL_S)
    banished.banish(OUT, 5, 0.0)
    for now in (0.0, 1e9):
        assert [banished.shuts_out(OUT, n, now) for n in (0, 5, 6)] == [True, True, False]
        assert not banished.shuts_out(OTHER, 0, now)


def test_who_was_not_known_is_shut_out_while_the_news_are_under_way() -> None:
    banished = Banished(INTERVAL_S)
    banished.banish(OUT, None, 100.0)
    # Whoever hears of it again and again does not wait the longer.
    banished.banish(OUT, None, 100.0 + NEWS_S - 1)
    for incarnation in (0, 1 << 44):
        assert banished.shuts_out(OUT, incarnation, 100.0 + NEWS_S - 1)
        assert not banished.shuts_out(OUT, incarnation, 100.0 + NEWS_S)
    banished.banish(OUT, None, 100.0 + NEWS_S)
    assert banished.shuts_out(OUT, 0, 100.0 + NEWS_S)


def test_who_is_banished_again_is_shut_out_as_before() -> None:
    """The replica went the first time, so its incarnation is not known the second time."""
    banished = Banished(INTERVAL_S)
    banished.banish(OUT, 5, 0.0)
    banished.banish(OUT, None, 1.0)
    assert banished.shuts_out(OUT, 5, 1e9)
    assert not banished.shuts_out(OUT, 6, 1.0)


def test_a_link_readmits() -> None:
    banished = Banished(INTERVAL_S)
    banished.banish(OUT, 5, 0.0)
    banished.readmit(OUT)
    banished.readmit(OTHER)
    assert not banished.shuts_out(OUT, 5, 0.0)
