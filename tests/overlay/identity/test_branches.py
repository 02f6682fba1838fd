"""Places for members: nobody's inventions take more than a share, whoever comes and goes."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.branches import Branches, Full, Lineage, Turns, lineage_of
from overlay.identity.certificates import Certificate, Membership, found_mesh, issue
from overlay.identity.peer_id import PeerId
from tests.overlay.identity.strategies import key

PLACES = 18


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def test_a_lineage_leads_from_the_founders_guest_to_the_member() -> None:
    founded = found_mesh(key(1), b"s" * 32)
    membership, inviter = founded, key(1)
    for number in (2, 3, 4):
        chain = issue(inviter, membership, key(number).peer_id, 1_800_000_000)
        membership = Membership(founded.founder, founded.mesh_secret, chain)
        inviter = key(number)
    assert lineage_of(()) == ()
    certificates = [Certificate.read(packed) for packed in chain]
    assert lineage_of(certificates) == tuple(key(number).peer_id for number in (2, 3, 4))


def test_a_member_that_makes_up_others_keeps_nobody_out() -> None:
    places = Branches(PLACES)
    liar = peer(1)
    made_up = [places.seat(peer(100 + n), (liar, peer(100 + n))) for n in range(PLACES)]
    assert made_up.count(None) == PLACES // 3
    assert made_up[-1] == Full(liar, PLACES // 3)
    assert str(liar) in str(made_up[-1])
    # A second row of its inventions takes no more.
    assert places.seat(peer(500), (liar, peer(100), peer(500))) == Full(liar, PLACES // 3)
    # It has a place of its own, as others have.
    others = [places.seat(peer(1 + n), (peer(1 + n),)) for n in range(PLACES - PLACES // 3)]
    assert others == [None] * len(others)
    assert places.seat(peer(99), (peer(99),)) == Full(None, PLACES)
    assert places.seat(peer(0), ()) is None, "the founder"


def test_a_place_that_is_left_is_free() -> None:
    places = Branches(PLACES)
    *seated, late = [(peer(1), peer(2 + n)) for n in range(PLACES // 3 + 1)]
    assert [places.seat(lineage[-1], lineage) for lineage in seated] == [None] * len(seated)
    assert places.seat(late[-1], late) is not None
    for _ in range(2):
        places.leave(seated[0][-1])
    assert places.seat(late[-1], late) is None


def test_who_is_let_in_anew_changes_places_or_keeps_its_own() -> None:
    places = Branches(PLACES)
    one, full = peer(1), peer(2)
    assert places.seat(one, (one,)) is None
    for number in range(PLACES // 3):
        assert places.seat(peer(10 + number), (full, peer(10 + number))) is None
    assert places.seat(one, (full, one)) == Full(full, PLACES // 3)
    # It has its place still: nobody else gets that.
    for number in range(PLACES - PLACES // 3 - 1):
        assert places.seat(peer(40 + number), (peer(40 + number),)) is None
    assert places.seat(peer(99), (peer(99),)) == Full(None, PLACES)
    # A newer certificate of the same inviter is no matter, however full its branch.
    assert places.seat(peer(10), (full, peer(10))) is None


NUMBERS = st.integers(1, 6)
LINEAGES = st.lists(NUMBERS, max_size=3, unique=True).map(lambda ns: tuple(map(peer, ns)))


@given(st.lists(st.tuples(st.integers(10, 40).map(peer), LINEAGES | st.none()), max_size=80))
def test_no_branch_ever_has_more_than_its_share(steps: list[tuple[PeerId, Lineage | None]]) -> None:
    places, above_of = Branches(PLACES), dict[PeerId, Lineage]()
    for member, above in steps:
        if above is None:
            places.leave(member)
            above_of.pop(member, None)
            continue
        others = [its for other, its in above_of.items() if other != member]
        sizes = Counter(its[:depth] for its in others for depth in range(len(its) + 1))
        there_is_room = all(
            sizes[above[:depth]] < max(1, PLACES // 3**depth) for depth in range(len(above) + 1)
        )
        full = places.seat(member, (*above, member))
        assert (full is None) == there_is_room
        if full is None:
            above_of[member] = above


def test_branches_take_turns_at_each_fork_and_their_order_is_kept() -> None:
    places = Branches(PLACES)
    liar, friend, guest = peer(1), peer(2), peer(3)
    crowd = [peer(10 + n) for n in range(5)]
    for member in crowd:
        assert places.seat(member, (liar, member)) is None
    for member, lineage in (
        (founder := peer(0), ()),
        (liar, (liar,)),
        (friend, (friend,)),
        (guest, (friend, guest)),
    ):
        assert places.seat(member, lineage) is None
    assert places.in_turns([]) == []
    # The first of each of three branches, then the second, and so on.
    assert places.in_turns([*crowd, liar, friend, founder, guest]) == [
        *(crowd[0], friend, founder),
        *(crowd[1], guest),
        *crowd[2:],
        liar,
    ]


def test_who_let_everybody_in_makes_up_no_more_turns_than_one_further_down_is_given() -> None:
    places = Branches(PLACES)
    first, liar, friend = peer(1), peer(2), peer(3)
    crowd = [peer(10 + n) for n in range(3)]
    assert places.seat(first, (first,)) is None
    assert places.seat(friend, (first, friend)) is None
    for member in crowd:
        places.seat(member, (first, liar, member))
    turns = places.in_turns([*crowd[:2], friend])
    assert turns == [crowd[0], friend, crowd[1]]


@given(
    st.lists(
        st.lists(st.integers(1, 4), max_size=3).map(lambda path: tuple(map(peer, path))),
        max_size=PLACES,
        unique=True,
    ),
    st.randoms(use_true_random=False),
)
def test_in_turns_everybody_comes_once(lineages: list[Lineage], rng: random.Random) -> None:
    places, seated = Branches(PLACES), []
    for number, lineage in enumerate(lineages):
        member = peer(100 + number)
        if places.seat(member, (*lineage, member)) is None:
            seated.append(member)
    rng.shuffle(seated)
    turns = places.in_turns(seated)
    assert sorted(turns) == sorted(seated)
    assert turns[:1] == seated[:1], "the first is the first of its branch"


def test_whose_turn_was_longest_ago_comes_first_at_each_fork() -> None:
    turns, liar, friend = Turns(), peer(1), peer(2)
    crowd = [(liar, peer(number)) for number in (10, 11, 12)]
    ways = [*crowd, (friend, friend)]
    had = []
    for now in range(6):
        first = turns.of(ways)[0]
        turns.take(first, float(now))
        had.append(first)
    assert had == [crowd[0], ways[3], crowd[1], ways[3], crowd[2], ways[3]]
    assert turns.latest(crowd[0]) == 0.0
    assert turns.of([ways[3]]) == [ways[3]]
    assert turns.of(ways)[0] == crowd[0], "who was away is no newcomer"
