"""Budgets of peers, in virtual time: who keeps to them notices nothing, who does not is cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.branches import Lineage
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    BAN_MAX_S,
    BAN_S,
    BRANCH_SURPLUS,
    BREACHES_MAX,
    BREACHES_S,
    HANDSHAKES_BURST,
    HANDSHAKES_PER_S,
    MEMBERS_MAX,
    PARKED_BYTES_MAX,
    PARKED_MESSAGES_MAX,
    PEER_BYTES_BURST,
    PEER_BYTES_PER_S,
    PEER_MESSAGES_BURST,
    PEER_MESSAGES_PER_S,
    SLOWED_MAX_S,
)
from overlay.transport import budgets
from overlay.transport.budgets import Bans, Breaches, Budget, Budgets, Handshakes

PEER, OTHER = (PeerId(bytes([number]) * 32) for number in (1, 2))


def read_all(budget: Budget, times: list[float], size: int) -> list[float]:
    """A peer sends at these times; returns when each message was read, as a driver would."""
    now, read_at = 0.0, []
    for at in times:
        now = max(now, at)
        now += budget.wait_s(now)
        budget.read(size, now)
        read_at.append(now)
    return read_at


@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 3000)), max_size=6),
    st.sampled_from([30, 4096, 1 << 20]),
)
def test_never_more_is_read_than_the_budget(bursts: list[tuple[int, int]], size: int) -> None:
    sent, at = [], 0.0
    for count, pause_ms in bursts:
        sent += [at] * count
        at += pause_ms / 1000
    read_at = read_all(Budget(0.0), sent, size)
    assert read_at == sorted(read_at)
    for index, now in enumerate(read_at):
        # One message more than there was budget for may be read: nobody knows its size before.
        assert index <= PEER_MESSAGES_BURST + PEER_MESSAGES_PER_S * now + 1
        assert index * size <= PEER_BYTES_BURST + PEER_BYTES_PER_S * now + size + 1


def test_a_heavy_message_counts_as_several() -> None:
    budget = Budget(0.0)
    for _ in range(PEER_MESSAGES_BURST // 8):
        assert not budget.wait_s(0.0)
        budget.read(1000, 0.0)
        budget.charge(7.0, 0.0)
    budget.read(1000, 0.0)
    assert budget.wait_s(0.0) == pytest.approx(1 / PEER_MESSAGES_PER_S)


@given(st.integers(1, PEER_MESSAGES_PER_S), st.integers(1, 3000))
def test_who_keeps_to_the_budget_is_never_slowed(per_s: int, size: int) -> None:
    budget = Budget(0.0)
    sent = [index / per_s for index in range(3000)]
    assert read_all(budget, sent, min(size, PEER_BYTES_PER_S // per_s)) == sent
    assert budget.excess(0, 0, sent[-1]) is None


def test_who_floods_is_slowed_and_then_too_much() -> None:
    budget, now, read = Budget(0.0), 0.0, 0
    while budget.excess(0, 0, now) is None:
        now += budget.wait_s(now)
        budget.read(1, now)
        read += 1
        assert now < 2 * SLOWED_MAX_S, "it goes on for ever"
    assert SLOWED_MAX_S < now <= SLOWED_MAX_S + 1
    assert read <= PEER_MESSAGES_BURST + PEER_MESSAGES_PER_S * now + 1


def test_a_burst_now_and_then_is_forgiven() -> None:
    budget, now = Budget(0.0), 0.0
    for _ in range(20):
        for _ in range(PEER_MESSAGES_BURST + 2000):
            now += budget.wait_s(now)
            budget.read(1, now)
            assert budget.excess(0, 0, now) is None
        now += 10.0
        assert budget.excess(0, 0, now) is None


def test_what_waits_to_be_read_is_bounded() -> None:
    budget = Budget(0.0)
    assert budget.excess(PARKED_MESSAGES_MAX, PARKED_BYTES_MAX, 0.0) is None
    assert "messages" in str(budget.excess(PARKED_MESSAGES_MAX + 1, 0, 0.0))
    assert budget.excess(1, PARKED_BYTES_MAX + 1, 0.0) is not None


#: A friend of the founder's, a guest of that one, who lets in inventions; and another friend.
FRIEND, GUEST, STRANGER = (PeerId(bytes([number]) * 32) for number in (10, 11, 12))
CROWD: list[Lineage] = [(FRIEND, GUEST, PeerId(bytes([number]) * 32)) for number in range(20, 24)]
EVERYBODY: list[Lineage] = [(FRIEND,), (FRIEND, GUEST), *CROWD, (FRIEND, PEER), (STRANGER,), ()]


def reads(
    sent: list[tuple[int, int]], size: int, members: Sequence[Lineage]
) -> dict[Lineage, list[float]]:
    """Who sends how many messages at one time, one after the other; when each was read.

    A second passes after each.
    """
    budgets = Budgets(())
    read_at: dict[Lineage, list[float]] = {member: [] for member in members}
    now = 0.0
    for who, count in sent:
        lineage = members[who % len(members)]
        budget = budgets.of((*lineage, OTHER)[-1] if lineage else OTHER, lineage, now)
        for _ in range(count):
            if budget.wait_s(now):
                break  # It waits, and is not counted.
            budget.read(size, now)
            read_at[lineage].append(now)
        now += 1.0
    return read_at


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 16_000)), max_size=6),
    st.sampled_from([30, 1 << 20]),
)
def test_nobodys_branch_has_much_more_read_than_a_peer(
    sent: list[tuple[int, int]], size: int
) -> None:
    read_at = reads(sent, size, EVERYBODY)
    for head in {lineage[:depth] for lineage in EVERYBODY for depth in range(1, 1 + len(lineage))}:
        peers = 1 + BRANCH_SURPLUS ** len(head)
        times = sorted(t for who, of in read_at.items() if who[: len(head)] == head for t in of)
        for index, now in enumerate(times):
            assert index <= peers * (PEER_MESSAGES_BURST + PEER_MESSAGES_PER_S * now) + 1
            assert index * size <= peers * (PEER_BYTES_BURST + PEER_BYTES_PER_S * now) + size + 1


def test_a_crowd_leaves_something_to_those_around_it_and_is_named_by_its_head() -> None:
    budgets = Budgets(())
    for lineage in CROWD * PEER_MESSAGES_BURST:
        budget = budgets.of(lineage[-1], lineage, 0.0)
        if not budget.wait_s(0.0):
            budget.read(30, 0.0)
    assert budget.crowd(0.0) == GUEST
    # None of them did by itself what it may not.
    assert [budgets.of(each[-1], each, 9.0).excess(0, 0, 9.0) for each in CROWD] == [None] * 4
    neighbour = budgets.of(PEER, (FRIEND, PEER), 0.0)
    assert not neighbour.wait_s(0.0)
    for _ in range(round(PEER_MESSAGES_BURST * (BRANCH_SURPLUS - BRANCH_SURPLUS**2))):
        neighbour.read(30, 0.0)
    assert neighbour.wait_s(0.0)
    assert neighbour.crowd(0.0) == FRIEND
    for lineage in ((STRANGER,), ()):
        assert not budgets.of(OTHER, lineage, 0.0).wait_s(0.0)


def test_who_floods_by_itself_is_no_crowd() -> None:
    budget = Budgets(()).of(GUEST, (FRIEND, GUEST), 0.0)
    for _ in range(PEER_MESSAGES_BURST + 1):
        budget.read(30, 0.0)
    assert budget.wait_s(0.0)
    assert budget.crowd(0.0) is None


def test_who_is_let_in_by_another_keeps_its_own_budget() -> None:
    budgets = Budgets(())
    for _ in range(PEER_MESSAGES_BURST + 1):
        budgets.of(PEER, (FRIEND, PEER), 0.0).read(30, 0.0)
    assert budgets.of(PEER, (STRANGER, PEER), 0.0).wait_s(0.0)
    assert not budgets.of(OTHER, (STRANGER, OTHER), 0.0).wait_s(0.0)


def test_budgets_are_bounded_and_those_with_links_are_kept() -> None:
    budgets = Budgets({PEER})
    for peer in (PEER, OTHER):
        for _ in range(PEER_MESSAGES_BURST + 1):
            budgets.of(peer, (peer,), 0.0).read(30, 0.0)
    for number in range(MEMBERS_MAX - 1):
        stranger = PeerId(number.to_bytes(32, "big"))
        budgets.of(stranger, (stranger,), 0.0)
    assert budgets.of(PEER, (PEER,), 0.0).wait_s(0.0)
    assert not budgets.of(OTHER, (OTHER,), 0.0).wait_s(0.0)


def test_bans_grow_up_to_a_bound_and_end() -> None:
    bans, now = Bans(), 100.0
    lasted = []
    for count in range(1, 12):
        made = bans.ban(PEER, "flooded", now)
        assert bans.of(PEER, now) == made
        assert (made.reason, made.count) == ("flooded", count)
        assert bans.all(now) == {PEER: made}
        lasted.append(made.until - now)
        now = made.until
        assert bans.of(PEER, now) is None
        assert bans.all(now) == {}
    assert lasted[:4] == [BAN_S, 2 * BAN_S, 4 * BAN_S, 8 * BAN_S]
    assert lasted == sorted(lasted)
    assert lasted[-1] == BAN_MAX_S
    assert bans.of(OTHER, now) is None


def test_who_floods_for_months_is_banned_as_before() -> None:
    bans = Bans()
    for times in range(1100):
        made = bans.ban(PEER, "flooded", times * BAN_MAX_S)
    assert made.until == 1100 * BAN_MAX_S


def test_who_keeps_the_peace_begins_anew() -> None:
    bans = Bans()
    ended = bans.ban(PEER, "flooded", 0.0).until
    assert bans.ban(PEER, "flooded", ended + BAN_MAX_S).count == 2
    ended = ended + BAN_MAX_S + 2 * BAN_S
    assert bans.ban(PEER, "flooded", ended + BAN_MAX_S + 1).count == 1


def test_bans_are_bounded() -> None:
    bans = Bans()
    for number in range(MEMBERS_MAX + 10):
        bans.ban(PeerId(number.to_bytes(32, "big")), "flooded", float(number) / 1000)
    assert len(bans.all(1.1)) == MEMBERS_MAX


def test_one_breach_may_be_a_bug_and_several_are_none() -> None:
    breaches = Breaches()
    for _ in range(2):
        counted = [breaches.too_many(PEER, 0.0) for _ in range(BREACHES_MAX)]
        assert counted == [False] * (BREACHES_MAX - 1) + [True]
    assert not breaches.too_many(OTHER, 0.0)
    rare = [
        breaches.too_many(PEER, number * BREACHES_S / (BREACHES_MAX - 1)) for number in range(10)
    ]
    assert rare == [False] * 10


def test_breaches_that_are_remembered_are_bounded() -> None:
    breaches = Breaches()
    for number in range(2 * MEMBERS_MAX):
        assert not breaches.too_many(PeerId(number.to_bytes(32, "big")), 0.0)
    assert not breaches.too_many(PeerId((0).to_bytes(32, "big")), 0.0)


def test_one_address_may_knock_so_often() -> None:
    handshakes = Handshakes()
    admitted = [handshakes.admit("192.0.2.7", 0.0) for _ in range(HANDSHAKES_BURST + 5)]
    assert admitted.count(True) == HANDSHAKES_BURST + 1
    assert not handshakes.admit("192.0.2.7", 0.0)
    assert handshakes.admit("192.0.2.8", 0.0), "others are not to blame"
    assert handshakes.admit("192.0.2.7", 2 / HANDSHAKES_PER_S)


def test_addresses_that_knocked_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "_SOURCES_MAX", 3)
    handshakes = Handshakes()
    for source in ("a", "b", "c"):
        while handshakes.admit(source, 0.0):
            pass
    assert handshakes.admit("d", 0.0)
    assert not handshakes.admit("c", 0.0)
    assert handshakes.admit("a", 0.0), "there is no room for all, so the first began anew"


def test_who_has_been_quiet_is_forgotten_before_who_knocks_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budgets, "_SOURCES_MAX", 3)
    handshakes = Handshakes()
    for source in ("a", "b", "c"):
        assert handshakes.admit(source, 0.0)
    while handshakes.admit("a", 100.0):
        pass
    for source in ("d", "e"):
        assert handshakes.admit(source, 100.0)
    assert not handshakes.admit("a", 100.0)
