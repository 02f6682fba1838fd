from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import (
    AlreadyMember,
    BadSignature,
    HearthError,
    IdentityError,
    Malformed,
    NotAMember,
)
from overlay.identity.certificates import (
    Certificate,
    Membership,
    check_may_invite,
    format_mesh_id,
    found_mesh,
    issue,
    mesh_id,
    verify_chain,
)
from overlay.identity.keys import NodeKey
from overlay.limits import CERTIFICATE_CHAIN_MAX, CLOCK_SKEW_S
from tests.overlay.identity.strategies import key

NOW = 1_800_000_000.5
FOUNDER, ANNA, BEN, MALLORY = key(1), key(2), key(3), key(4)
MESH = found_mesh(FOUNDER, b"m" * 32)


def member(who: NodeKey, of: NodeKey, by: Membership = MESH, ttl_s: float = 1000) -> Membership:
    return Membership(MESH.founder, MESH.mesh_secret, issue(of, by, who.peer_id, NOW, ttl_s=ttl_s))


def forged(signer: NodeKey, **fields: Any) -> bytes:
    """A certificate that the founder would have to sign, signed by another."""
    made = Certificate(
        MESH.mesh_id, MALLORY.peer_id, signer.peer_id, int(NOW), int(NOW) + 1000, True
    )
    return replace(made, **fields).sign(signer)


def check(who: NodeKey, chain: tuple[bytes, ...], now: float = NOW) -> None:
    verify_chain(FOUNDER.peer_id, who.peer_id, chain, now)


def test_the_founder_is_a_member_without_certificates() -> None:
    check(FOUNDER, MESH.certificates)
    with pytest.raises(NotAMember):
        check(FOUNDER, member(ANNA, FOUNDER).certificates)


def test_chains_of_invitations_hold_up_to_the_limit() -> None:
    membership, inviter = MESH, FOUNDER
    for number in range(CERTIFICATE_CHAIN_MAX):
        invited = key(100 + number)
        membership, inviter = member(invited, inviter, membership), invited
        check(invited, membership.certificates)
    with pytest.raises(IdentityError, match="nearer to the founder"):
        member(MALLORY, inviter, membership)


def test_a_chain_beyond_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(NotAMember, match="too long"):
        check(ANNA, (b"",) * (CERTIFICATE_CHAIN_MAX + 1))


def test_whoever_verifies_a_chain_need_not_read_it_again() -> None:
    anna = member(ANNA, FOUNDER)
    chain = member(BEN, ANNA, anna).certificates
    found = verify_chain(FOUNDER.peer_id, BEN.peer_id, chain, NOW)
    assert found == tuple(map(Certificate.open, chain))
    assert [each.subject for each in found] == [BEN.peer_id, ANNA.peer_id]


def test_nobody_else_is_a_member() -> None:
    anna = member(ANNA, FOUNDER)
    with pytest.raises(NotAMember, match="no certificate"):
        check(MALLORY, ())
    with pytest.raises(NotAMember, match="another node"):
        check(MALLORY, anna.certificates)
    with pytest.raises(NotAMember, match="founder"):
        check(MALLORY, (forged(ANNA),))
    with pytest.raises(NotAMember, match="another mesh"):
        check(MALLORY, (forged(FOUNDER, mesh_id=mesh_id(MALLORY.peer_id)),))
    with pytest.raises(NotAMember, match="behind the founder"):
        check(ANNA, (*anna.certificates, forged(FOUNDER)))


def test_a_forged_signature_is_noticed() -> None:
    # Mallory signs, with its own key, what the founder would have to sign.
    wanted, signature = forged(FOUNDER)[64:], forged(MALLORY)[:64]
    with pytest.raises(BadSignature):
        check(MALLORY, (signature + wanted,))
    with pytest.raises(BadSignature):
        check(MALLORY, (MALLORY.sign(wanted) + wanted,))


def test_who_may_not_invite_cannot_issue_nor_be_an_issuer() -> None:
    guest = Membership(
        MESH.founder,
        MESH.mesh_secret,
        issue(FOUNDER, MESH, ANNA.peer_id, NOW, ttl_s=1000, may_invite=False),
    )
    check(ANNA, guest.certificates)
    with pytest.raises(IdentityError, match="does not allow"):
        check_may_invite(guest, ANNA.peer_id, NOW)
    own = forged(ANNA, subject=BEN.peer_id)
    with pytest.raises(NotAMember, match="not allowed to invite"):
        check(BEN, (own, *guest.certificates))


def test_every_link_expires() -> None:
    anna = member(ANNA, FOUNDER, ttl_s=100)
    ben = member(BEN, ANNA, anna, ttl_s=1000)
    assert Certificate.open(ben.certificates[0]).expires_at == int(NOW + 100)
    check(BEN, ben.certificates, NOW + 99)
    with pytest.raises(NotAMember, match="expired"):
        check(BEN, ben.certificates, NOW + 100)
    # A member that writes itself a longer time than its issuer has gains nothing.
    greedy = forged(ANNA, subject=BEN.peer_id, expires_at=int(NOW) + 10_000)
    with pytest.raises(NotAMember, match="expired"):
        check(BEN, (greedy, *anna.certificates), NOW + 100)
    with pytest.raises(NotAMember, match="expired"):
        issue(ANNA, anna, BEN.peer_id, NOW + 100)


def test_a_membership_ends_with_the_first_of_its_certificates() -> None:
    anna = member(ANNA, FOUNDER, ttl_s=100)
    assert MESH.expires_at is None
    assert anna.expires_at == int(NOW + 100)
    assert member(BEN, ANNA, anna, ttl_s=50).expires_at == int(NOW + 50)


def test_clocks_may_differ_by_minutes() -> None:
    anna = member(ANNA, FOUNDER)
    check(ANNA, anna.certificates, NOW - CLOCK_SKEW_S)
    with pytest.raises(NotAMember, match="future"):
        check(ANNA, anna.certificates, NOW - CLOCK_SKEW_S - 2)


def test_issuer_and_founder_need_no_certificate() -> None:
    anna = member(ANNA, FOUNDER)
    for subject in (ANNA, FOUNDER):
        with pytest.raises(AlreadyMember):
            issue(ANNA, anna, subject.peer_id, NOW)


def test_another_key_cannot_use_a_membership_to_issue() -> None:
    with pytest.raises(NotAMember):
        issue(MALLORY, member(ANNA, FOUNDER), BEN.peer_id, NOW)


CHAIN = member(BEN, ANNA, member(ANNA, FOUNDER)).certificates


@given(st.sampled_from([0, 1]), st.integers(0, 300), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(link: int, position: int, change: int) -> None:
    packed = bytearray(CHAIN[link])
    packed[position % len(packed)] ^= change
    chain = (*CHAIN[:link], bytes(packed), *CHAIN[link + 1 :])
    with pytest.raises((Malformed, BadSignature, NotAMember)):
        check(BEN, chain)


@given(st.lists(st.binary(max_size=300) | st.sampled_from(CHAIN), max_size=4))
def test_any_chain_but_the_true_one_is_refused(links: list[bytes]) -> None:
    if tuple(links) == CHAIN:
        return
    with pytest.raises(HearthError):
        check(BEN, tuple(links))


def test_mesh_ids_differ_by_founder() -> None:
    assert len(MESH.mesh_id) == 16
    assert mesh_id(ANNA.peer_id) != MESH.mesh_id
    assert format_mesh_id(MESH.mesh_id).isalnum()


def test_a_mesh_secret_has_32_bytes() -> None:
    with pytest.raises(Malformed):
        found_mesh(FOUNDER, b"short")


@pytest.mark.parametrize("times", [{"expires_at": 1 << 62}, {"issued_at": -1}])
def test_no_certificate_is_of_no_time_at_all(times: dict[str, int]) -> None:
    with pytest.raises(Malformed, match="no time"):
        Certificate.open(forged(FOUNDER, **times))
