from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.errors import BadSignature, HearthError, IdentityError, Malformed, NotAMember, Revoked
from overlay.identity import revocations
from overlay.identity.certificates import Membership, found_mesh, issue, mesh_id, verify_chain
from overlay.identity.keys import NodeKey
from overlay.identity.revocations import Revocation, Revocations, revoke
from overlay.limits import (
    CERTIFICATE_TTL_S,
    PLACES_PER_BRANCH_PLACE,
    REVOCATIONS_MAX,
    REVOCATIONS_PER_MEMBER_MAX,
)
from tests.overlay.identity.strategies import key

NOW = 1_800_000_000
FOUNDER, ANNA, BEN, CLEO, MALLORY = (key(n) for n in range(1, 6))
MESH = found_mesh(FOUNDER, b"m" * 32)


def member(
    who: NodeKey, of: NodeKey, by: Membership = MESH, now: float = NOW, not_before: int = 0
) -> Membership:
    chain = issue(of, by, who.peer_id, now, not_before=not_before)
    return Membership(MESH.founder, MESH.mesh_secret, chain)


# The founder invited Anna and Mallory, Anna invited Ben, Ben invited Cleo.
ANNAS = member(ANNA, FOUNDER)
BENS = member(BEN, ANNA, ANNAS)
CLEOS = member(CLEO, BEN, BENS)
MALLORYS = member(MALLORY, FOUNDER)
MEMBERS = {FOUNDER: MESH, ANNA: ANNAS, BEN: BENS, CLEO: CLEOS, MALLORY: MALLORYS}


def known(*records: bytes) -> Revocations:
    return Revocations(MESH.founder, records)


def record(
    by: NodeKey, subject: NodeKey, at: int = NOW, membership: Membership | None = None
) -> bytes:
    """What ``by`` may sign, whether anybody would believe it or not."""
    mine = membership or MEMBERS[by]
    statement = Revocation(MESH.mesh_id, subject.peer_id, by.peer_id, at).sign(by)
    return msgpack.packb([statement, list(mine.certificates)])  # type: ignore[no-any-return]


def is_void(who: NodeKey, *records: bytes) -> bool:
    return known(*records).find(MEMBERS[who].certificates) is not None


# --- Who may ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [FOUNDER, ANNA, BEN], ids=["founder", "above inviter", "inviter"])
def test_whoever_stands_above_revokes(by: NodeKey) -> None:
    revocation, made = revoke(by, MEMBERS[by], known(), CLEO.peer_id, NOW, chain=CLEOS.certificates)
    revocations = known()
    assert revocations.add(made) == revocation
    assert revocations.add(made) is None
    assert list(revocations) == [revocation]
    with pytest.raises(Revoked, match=r"was revoked by .* on 2027-01-15 08:00 UTC") as caught:
        revocations.check(CLEOS.certificates)
    assert caught.value.evidence == made
    for other in (FOUNDER, ANNA, BEN, MALLORY):
        revocations.check(MEMBERS[other].certificates)


def test_whom_somebody_let_in_falls_with_them() -> None:
    made = record(FOUNDER, ANNA)
    assert [is_void(who, made) for who in (ANNA, BEN, CLEO)] == [True, True, True]
    assert not is_void(MALLORY, made)


def test_nobody_else_may() -> None:
    for by, subject in [(MALLORY, BEN), (CLEO, BEN), (BEN, ANNA)]:
        chain = MEMBERS[subject].certificates
        with pytest.raises(IdentityError, match="did not join through this node"):
            revoke(by, MEMBERS[by], known(), subject.peer_id, NOW, chain=chain)
        # Whoever says it all the same is not heeded.
        assert not is_void(subject, record(by, subject))
    with pytest.raises(IdentityError, match="leave"):
        revoke(ANNA, ANNAS, known(), ANNA.peer_id, NOW)
    with pytest.raises(IdentityError, match="the founder cannot be revoked"):
        revoke(ANNA, ANNAS, known(), FOUNDER.peer_id, NOW)


@pytest.mark.parametrize(
    "chain",
    [
        # As if it was let in when Anna herself will be no member any more.
        (issue(MALLORY, MALLORYS, BEN.peer_id, NOW, not_before=2**32 - 2)[0], *ANNAS.certificates),
        (b"no certificate",),
    ],
    ids=["of another time", "garbage"],
)
def test_nobody_escapes_by_what_it_makes_up_of_itself(chain: tuple[bytes, ...]) -> None:
    _, made = revoke(ANNA, ANNAS, known(), BEN.peer_id, NOW, chain=chain, invited=True)
    assert known(made).find(BENS.certificates) is not None


def test_an_inviter_need_not_know_the_chain() -> None:
    _, made = revoke(ANNA, ANNAS, known(), BEN.peer_id, NOW, invited=True)
    assert is_void(BEN, made)


def test_a_certificate_of_a_fast_clock_is_revoked_too() -> None:
    ahead = member(BEN, FOUNDER, now=NOW + 300)
    _, made = revoke(FOUNDER, MESH, known(), BEN.peer_id, NOW, chain=ahead.certificates)
    assert known(made).find(ahead.certificates)


# --- Coming back ------------------------------------------------------------------------------


def test_a_newer_certificate_is_a_membership_again() -> None:
    revocations = known(record(FOUNDER, BEN))
    begins = revocations.check_invited(ANNAS, BEN.peer_id, invited_at=NOW)
    again = member(BEN, ANNA, ANNAS, not_before=begins)
    verify_chain(FOUNDER.peer_id, BEN.peer_id, again.certificates, NOW)
    revocations.check(again.certificates)
    # And can be revoked again.
    _, made = revoke(FOUNDER, MESH, revocations, BEN.peer_id, NOW, chain=again.certificates)
    revocations.add(made)
    assert revocations.find(again.certificates)


def test_an_older_invite_does_not_bring_back() -> None:
    revocations = known(record(FOUNDER, BEN))
    with pytest.raises(Revoked, match="this invite is older"):
        revocations.check_invited(ANNAS, BEN.peer_id, invited_at=NOW - 1)
    assert revocations.check_invited(ANNAS, CLEO.peer_id, invited_at=NOW - 1) == 0


def test_who_comes_back_does_not_bring_back_whom_it_let_in() -> None:
    revocations = known(record(FOUNDER, ANNA))
    again = member(ANNA, FOUNDER, now=NOW + 10)
    revocations.check(again.certificates)
    mixed = (BENS.certificates[0], *again.certificates)
    with pytest.raises(NotAMember, match="older than its issuer's own"):
        verify_chain(FOUNDER.peer_id, BEN.peer_id, mixed, NOW + 10)


def test_a_bystander_cannot_keep_anybody_from_coming_back() -> None:
    revocations = known(record(MALLORY, BEN, at=NOW + 1_000_000))
    assert revocations.check_invited(ANNAS, BEN.peer_id, invited_at=NOW) == 0


# --- Forgeries --------------------------------------------------------------------------------


def test_what_no_member_made_is_refused() -> None:
    stranger = key(99)
    elsewhere = found_mesh(MALLORY, b"e" * 32)
    foreign = Revocation(mesh_id(MALLORY.peer_id), BEN.peer_id, MALLORY.peer_id, NOW).sign(MALLORY)
    signed = Revocation(MESH.mesh_id, BEN.peer_id, FOUNDER.peer_id, NOW)
    impostor = replace(signed, issuer=MALLORY.peer_id).sign(MALLORY)[:64]
    impostor += signed.sign(FOUNDER)[64:]
    for bad in (
        record(stranger, BEN, membership=MESH),
        record(MALLORY, BEN, membership=ANNAS),
        msgpack.packb([foreign, list(elsewhere.certificates)]),
        msgpack.packb([impostor, []]),
        record(ANNA, FOUNDER),
        record(ANNA, ANNA),
        record(FOUNDER, BEN, at=-1),
        record(FOUNDER, BEN, at=1 << 40),
        record(FOUNDER, BEN) + b"x",
        b"",
        b"\x90",
        bytes(5000),
    ):
        revocations = known()
        with pytest.raises(HearthError):
            revocations.add(bad)
        assert revocations.records() == []


ATTACKERS = (MALLORY, BEN, key(99))
#: What an attacker has: its own keys, everybody's certificates, everything ever signed.
SEEN = (
    record(FOUNDER, CLEO),
    record(ANNA, CLEO),
    Revocation(mesh_id(MALLORY.peer_id), ANNA.peer_id, MALLORY.peer_id, NOW).sign(MALLORY),
)


def signed_as(
    signer: NodeKey, issuer: NodeKey, mesh: bytes, subject: NodeKey, at: int, by: NodeKey
) -> bytes:
    """A statement of ``issuer`` that ``signer`` signed, with the chain of ``by``."""
    claimed = Revocation(mesh, subject.peer_id, issuer.peer_id, at)
    body = claimed.sign(issuer)[64:]
    signature = signer.sign(b"hearth revocation 1" + body)
    return msgpack.packb([signature + body, list(MEMBERS[by].certificates)])  # type: ignore[no-any-return]


def altered(packed: bytes, at: int, change: int) -> bytes:
    at %= len(packed)
    return packed[:at] + bytes([packed[at] ^ change]) + packed[at + 1 :]


forgeries = st.builds(
    signed_as,
    signer=st.sampled_from(ATTACKERS),
    issuer=st.sampled_from((*ATTACKERS, FOUNDER, ANNA)),
    mesh=st.sampled_from([MESH.mesh_id, mesh_id(MALLORY.peer_id)]),
    subject=st.sampled_from([FOUNDER, ANNA, BEN]),
    at=st.integers(0, (1 << 32) - 1),
    by=st.sampled_from(list(MEMBERS)),
)
alterations = st.builds(altered, st.sampled_from(SEEN), st.integers(0, 1000), st.integers(1, 255))


@given(st.lists(forgeries | alterations | st.sampled_from(SEEN), max_size=8))
def test_no_attacker_revokes_who_is_not_below_it(attempts: list[bytes]) -> None:
    revocations = known()
    for attempt in attempts:
        with contextlib.suppress(Malformed, BadSignature, NotAMember):
            revocations.add(attempt)
    for who in (FOUNDER, ANNA, BEN):
        revocations.check(MEMBERS[who].certificates)


# --- A set, whatever the order ----------------------------------------------------------------

SOME = [
    record(by, subject, NOW + at)
    for by, subject in [(FOUNDER, ANNA), (FOUNDER, BEN), (ANNA, BEN), (BEN, CLEO), (MALLORY, CLEO)]
    for at in (0, 1)
]


@given(st.lists(st.sampled_from(SOME)), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(records: list[bytes], rng: random.Random) -> None:
    once, other = known(*records), known()
    shuffled = records * 2
    rng.shuffle(shuffled)
    for each in shuffled:
        other.add(each)
    assert sorted(once.records()) == sorted(other.records()) == sorted(set(records))
    for membership in MEMBERS.values():
        assert once.find(membership.certificates) == other.find(membership.certificates)


FLOOD = [record(MALLORY, key(1000 + n), NOW + n) for n in range(REVOCATIONS_PER_MEMBER_MAX + 8)]
MANY = [record(FOUNDER, key(2000 + n), NOW - n) for n in range(REVOCATIONS_MAX + 8)]


def test_a_member_has_room_for_some_and_the_founder_always() -> None:
    flooded = known(*FLOOD)
    assert len(flooded.records()) == REVOCATIONS_PER_MEMBER_MAX
    assert flooded.add(record(FOUNDER, ANNA)) is not None
    assert flooded.add(record(BEN, CLEO)) is not None
    full = known(*MANY, *FLOOD)
    assert full.records() == MANY[:REVOCATIONS_MAX]


@settings(max_examples=25)  # Each verifies some three hundred signatures.
@given(st.randoms(use_true_random=False))
def test_what_there_is_room_for_does_not_depend_on_the_order(rng: random.Random) -> None:
    records = [*FLOOD, *MANY[-40:], record(BEN, CLEO)]
    rng.shuffle(records)
    half, rest = known(*records[:40]), records[20:]
    assert known(*rest, *half.records()).records() == known(*records).records()


def test_a_crowd_that_a_member_lets_in_undoes_no_revocation_of_others() -> None:
    """Each invention of Mallory's makes as many as a member may, and later ones than Ben did."""
    later = NOW + CERTIFICATE_TTL_S // 2
    crowd = [
        record(each, key(100 + number), later, member(each, MALLORY, MALLORYS))
        for each in (key(20 + which) for which in range(REVOCATIONS_MAX // 32 + 1))
        for number in range(REVOCATIONS_PER_MEMBER_MAX)
    ]
    mine = known(record(BEN, CLEO), *crowd)
    assert mine.find(CLEOS.certificates)
    assert len(mine.records()) == 1 + REVOCATIONS_MAX // PLACES_PER_BRANCH_PLACE


BRANCHES = [
    record(by, key(30 + number), NOW + number)
    for by in (ANNA, BEN, CLEO, MALLORY)
    for number in range(5)
]


@given(st.permutations(BRANCHES), st.integers(0, len(BRANCHES)))
@settings(max_examples=25, deadline=None)
def test_nor_does_that_of_a_branch_depend_on_the_order(order: list[bytes], half: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(revocations, "REVOCATIONS_MAX", 9)
        patch.setattr(revocations, "REVOCATIONS_PER_MEMBER_MAX", 2)
        first = known(*order[:half])
        assert known(*order[half:], *first.records()).records() == known(*BRANCHES).records()
        # Anna two, Ben one of the three of her branch, and Mallory two.
        assert len(known(*BRANCHES).records()) == 5


def test_a_revocation_that_would_undo_another_is_refused() -> None:
    mine = known(*FLOOD[:REVOCATIONS_PER_MEMBER_MAX])
    with pytest.raises(IdentityError, match="let the founder do it"):
        revoke(MALLORY, MALLORYS, mine, CLEO.peer_id, NOW + 100, invited=True)
    # Those of a year ago concern nobody any more: every certificate ends by then.
    later = NOW + CERTIFICATE_TTL_S + 100
    renewed = member(MALLORY, FOUNDER, now=later)
    revoke(MALLORY, renewed, mine, CLEO.peer_id, later, invited=True)


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(HearthError):
        known().add(data)
