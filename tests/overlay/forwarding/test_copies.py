"""Which of a node's blocks others hold, too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.forwarding.copies import LOOKS, WEIGHED_AGAIN_MAX, WEIGHED_MAX, Copies
from overlay.identity.peer_id import PeerId
from overlay.prefix.index import PeerIndex
from overlay.routing.keeper import keeper

ME, NEAR, FAR = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))
WAYS = {NEAR: 10.0, FAR: 200.0}
#: A block that this node keeps, whoever else has it, and one that it does not.
MINE, THEIRS = (
    next(b for b in range(99) if {keeper(b, [ME, peer]) == ME for peer in WAYS} == {mine})
    for mine in (True, False)
)


def known(*holders: PeerId) -> tuple[Copies, PeerIndex[PeerId]]:
    """Two blocks came to be held here, and were held there before."""
    index: PeerIndex[PeerId] = PeerIndex()
    for holder in holders:
        index.add(holder, (MINE, THEIRS))
    copies = Copies(ME, index)
    copies.changed_here((MINE, THEIRS), ())
    return copies, index


def test_a_copy_costs_the_way_to_the_nearest() -> None:
    copies, _ = known(FAR, NEAR)
    assert copies.take({THEIRS}, WAYS) == {THEIRS: 10}
    copies, _ = known(FAR, NEAR)
    assert copies.take({THEIRS}, {FAR: 200.0}) == {THEIRS: 200}
    copies, _ = known(FAR, NEAR)
    assert copies.take({THEIRS}, {NEAR: 0.01}) == {THEIRS: 1}, "no way is for nothing"


def test_one_holder_takes_its_copy_for_the_last_one() -> None:
    copies, _ = known(FAR, NEAR)
    assert copies.take({MINE, THEIRS}, WAYS) == {THEIRS: 10}


def test_who_cannot_be_asked_is_no_help() -> None:
    copies, _ = known(NEAR)
    assert copies.take({THEIRS}, {FAR: 200.0}) == {}
    assert copies.take({THEIRS}, WAYS) == {THEIRS: 10}, "until it can be"


def test_what_goes_here_or_there_is_told() -> None:
    copies, index = known(NEAR)
    assert copies.take({THEIRS}, WAYS) == {THEIRS: 10}
    index.remove(NEAR, (THEIRS,))
    copies.changed_elsewhere((THEIRS,))
    assert copies.take({THEIRS}, WAYS) == {THEIRS: 0}
    index.add(NEAR, (THEIRS,))
    copies.changed_elsewhere((THEIRS,))
    assert copies.take({THEIRS}, WAYS) == {THEIRS: 10}
    copies.changed_here((), (THEIRS,))
    assert copies.take(set(), WAYS) == {THEIRS: 0}


def test_other_ways_are_told_in_time_and_about_the_same_ones_not() -> None:
    index: PeerIndex[PeerId] = PeerIndex()
    blocks = [b for b in range(5 * LOOKS) if keeper(b, [ME, NEAR]) == NEAR][: 2 * LOOKS]
    index.add(NEAR, blocks)
    copies = Copies(ME, index)
    copies.changed_here(blocks, ())
    assert copies.take({*blocks}, {NEAR: 100.0}) == dict.fromkeys(blocks, 100)
    assert copies.take({*blocks}, {NEAR: 120.0}) == {}
    told = [copies.take({*blocks}, {NEAR: 130.0}) for _ in range(3)]
    assert [len(each) for each in told] == [LOOKS, LOOKS, 0]
    assert told[0] | told[1] == dict.fromkeys(blocks, 130)


def test_what_a_crowd_holds_is_told_little_by_little() -> None:
    index: PeerIndex[PeerId] = PeerIndex()
    crowd = [PeerId(number.to_bytes(32, "big")) for number in range(1, 64)]
    blocks = range(256)
    for peer in crowd:
        index.add(peer, blocks)
    copies = Copies(PeerId(bytes(32)), index)
    copies.changed_here(blocks, ())
    found: dict[int, int] = {}
    for taken in range(1, 1 + -(-256 * 64 // WEIGHED_MAX)):
        told = copies.take({*blocks}, dict.fromkeys(crowd, 10.0))
        assert found.keys().isdisjoint(told)
        found |= told
        assert len(found) <= taken * WEIGHED_MAX / 64
    kept = [b for b in blocks if keeper(b, [PeerId(bytes(32)), *crowd]) == PeerId(bytes(32))]
    assert found == dict.fromkeys({*blocks}.difference(kept), 10)
    # So are other ways, to all in turn.
    takes = -(-256 * 64 // WEIGHED_AGAIN_MAX)
    again = [copies.take({*blocks}, dict.fromkeys(crowd, 20.0)) for _ in range(takes)]
    assert all(0 < len(told) <= WEIGHED_AGAIN_MAX / 64 for told in again)
    assert {block for told in again for block in told} == found.keys()


def test_what_goes_here_is_told_at_once_however_many_there_are() -> None:
    index: PeerIndex[PeerId] = PeerIndex()
    blocks = [b for b in range(9 * LOOKS) if keeper(b, [ME, NEAR]) == NEAR]
    index.add(NEAR, blocks)
    copies = Copies(ME, index)
    copies.changed_here(blocks, ())
    while copies.take({*blocks}, WAYS):
        pass
    for gone in (blocks[: LOOKS // 2], blocks[-LOOKS // 2 :]):
        copies.changed_here((), gone)
        blocks = [b for b in blocks if b not in gone]
        assert copies.take({*blocks}, WAYS) == dict.fromkeys(gone, 0)


@given(st.sets(st.sampled_from([ME, NEAR, FAR]), min_size=1), st.integers(0, 2**64 - 1))
def test_one_of_all_holders_keeps_its_copy(holders: set[PeerId], block: int) -> None:
    kept = []
    for peer in holders:
        index: PeerIndex[PeerId] = PeerIndex()
        for other in holders - {peer}:
            index.add(other, (block,))
        copies = Copies(peer, index)
        copies.changed_here((block,), ())
        told = copies.take({block}, dict.fromkeys((ME, NEAR, FAR), 1.0))
        if not told:
            kept.append(peer)
    assert len(kept) == 1
