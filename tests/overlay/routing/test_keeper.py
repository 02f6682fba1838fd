"""Who keeps a prefix."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.peer_id import PeerId
from overlay.routing.keeper import keeper

peers = st.binary(min_size=32, max_size=32).map(PeerId)


@given(st.integers(0, 2**64 - 1), st.lists(peers, min_size=1, unique=True))
def test_all_nodes_name_the_same(block: int, holders: list[PeerId]) -> None:
    assert keeper(block, holders) == keeper(block, reversed(holders))


@given(st.integers(0, 2**64 - 1), st.lists(peers, min_size=2, unique=True))
def test_it_stays_when_another_holder_goes(block: int, holders: list[PeerId]) -> None:
    kept = keeper(block, holders)
    for gone in holders:
        if gone != kept:
            assert keeper(block, [peer for peer in holders if peer != gone]) == kept


def test_prefixes_are_spread_over_their_holders() -> None:
    holders = [PeerId(bytes([n]) * 32) for n in range(4)]
    kept = Counter(keeper(block, holders) for block in range(400))
    assert min(kept[holder] for holder in holders) > 60


def test_nodes_of_all_versions_name_the_same() -> None:
    holders = [PeerId(bytes([n]) * 32) for n in range(4)]
    blocks = (0, 1, 2, 3, 4, 5, 6, 2**64 - 1)
    assert [holders.index(keeper(b, holders)) for b in blocks] == [3, 0, 0, 3, 1, 0, 2, 3]
