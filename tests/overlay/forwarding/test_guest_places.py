"""Places that an owner grants to guests' requests, and who gets the next one."""

from __future__ import annotations

from collections import Counter
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from models.engine import Client
from overlay.forwarding.guest_places import GuestPlaces
from overlay.limits import PLACE_KEPT_S

FRIEND: Client = (b"friend", b"friend")
#: Whom one member let in, and whom one of these did.
CROWD: list[Client] = [(b"head", bytes([each]), bytes([each])) for each in range(9)]
CROWD += [(b"head", b"\0", bytes([each]), bytes([each])) for each in range(9, 12)]


class Lender:
    """Places, and who has them; each request has an id of its own."""

    def __init__(self, most: int) -> None:
        self.places = GuestPlaces(most)
        self.held: list[tuple[bytes, Client]] = []
        self._ids = count()

    def asks(self, client: Client, now: float) -> bool:
        """Whether it gets a place."""
        if self.places.refuses(client, now):
            return False
        self.held.append((b"%d" % next(self._ids), client))
        self.places.take(*self.held[-1])
        return True

    def ends(self, index: int = 0) -> None:
        self.places.back(self.held.pop(index)[0])

    def crowd_asks(self, now: float) -> None:
        for client in CROWD:
            self.asks(client, now)


def test_a_friend_has_all_places_while_nobody_else_asks() -> None:
    lender = Lender(4)
    assert [lender.asks(FRIEND, 0.0) for _ in range(5)] == [True] * 4 + [False]
    assert lender.places.free == 0
    lender.ends()
    assert lender.places.free == 1
    assert lender.asks(FRIEND, 1.0)


def test_without_a_bound_nobody_is_refused_and_nothing_is_kept() -> None:
    places = GuestPlaces(None)
    assert not places.refuses(FRIEND, 0.0)
    places.take(b"r", FRIEND)
    assert places.free is None
    assert not any((places._waiting, places._taken, places._given))


def test_where_there_are_no_places_everybody_is_refused() -> None:
    assert GuestPlaces(0).refuses(FRIEND, 0.0)


def test_a_crowd_that_asks_all_the_time_leaves_a_friend_every_other_place() -> None:
    """Though each of the crowd asks before the friend does whenever a place is free."""
    for most in (1, 2, 4):
        lender, had = Lender(most), Counter[bool]()
        lender.crowd_asks(0.0)
        assert len(lender.held) == most
        for now in range(40):
            lender.ends()
            lender.crowd_asks(now)
            lender.asks(FRIEND, now)
            assert len(lender.held) == most
            had[lender.held[-1][1] == FRIEND] += 1
        assert 18 <= had[True] <= 20


def test_a_place_is_kept_for_no_longer_than_somebody_is_likely_to_come() -> None:
    lender = Lender(1)
    lender.asks(CROWD[0], 0.0)
    lender.ends()
    lender.asks(CROWD[0], 0.0)
    assert not lender.asks(FRIEND, 0.0)
    lender.ends()
    assert not lender.asks(CROWD[0], 1.0)
    assert not lender.asks(CROWD[0], PLACE_KEPT_S - 0.1)
    assert lender.asks(CROWD[0], PLACE_KEPT_S)


@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from([FRIEND, *CROWD]), st.floats(0, 20), st.booleans())),
)
def test_no_more_are_taken_than_there_are_and_nothing_is_kept_of_who_is_gone(
    most: int, steps: list[tuple[Client, float, bool]]
) -> None:
    lender, now = Lender(most), 0.0
    for client, later_s, ends in steps:
        now += later_s
        if ends and lender.held:
            lender.ends(-1)
        lender.asks(client, now)
        assert lender.places.free == most - len(lender.held) >= 0
    while lender.held:
        lender.ends()
    if most:
        now += PLACE_KEPT_S
        assert lender.asks(FRIEND, now)
        lender.ends()
        places = lender.places
        assert not any((places._waiting, places._taken, places._given))
