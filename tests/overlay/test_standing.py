"""What a home belongs to, with real files."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.errors import ConfigError, InvalidRequest, InviteUnknown
from overlay.home.contents import Contact
from overlay.home.home import Home
from overlay.identity.certificates import found_mesh, issue
from overlay.identity.invites import SECRET_BYTES
from overlay.limits import CERTIFICATE_TTL_S, RENEWAL_S
from overlay.standing import Standing, ending_told, moment_told
from tests.overlay.identity.strategies import key


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def it_is(at: float, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("overlay.standing.time.time", lambda: at)


def test_an_invite_that_cannot_be_kept_is_none(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    standing = Standing(home, home.load_or_create_key())

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match="No space left"):
            standing.invite(60, 1, "for Bo", (), may_invite=True)
    assert standing.invites({}) == []
    assert standing.invite(60, 1, "for Bo", (), may_invite=True)["token"]


def test_an_invite_is_cancelled_by_the_beginning_of_its_id_if_it_is_clear_which(
    home: Home,
) -> None:
    standing = Standing(home, home.load_or_create_key())
    by_digit: dict[str, list[str]] = {}
    for number in range(17):  # more than there are digits, so two ids begin alike
        secret = number.to_bytes(SECRET_BYTES)
        made = standing.ledger.issue(time.time(), 60, 1, "", secret).id.hex()
        by_digit.setdefault(made[0], []).append(made)
    digit, (first, *_, last) = next(item for item in by_digit.items() if len(item[1]) > 1)
    kept = standing.invites({})
    with pytest.raises(InvalidRequest, match=f"several invites begin with {digit}"):
        standing.cancel(digit)
    assert standing.invites({}) == kept
    assert standing.cancel(first) == [first]
    assert standing.cancel(last[:8]) == [last]
    with pytest.raises(InviteUnknown):
        standing.cancel(first)
    left = Standing(home, home.load_or_create_key()).invites({})
    assert left == [each for each in kept if each["id"] not in (first, last)]


def test_of_all_invites_those_are_cancelled_that_are_open(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = Standing(home, home.load_or_create_key())
    expired, still_open = (
        standing.invite(ttl_s, 1, "", (), may_invite=True)["id"] for ttl_s in (60, 3600)
    )
    it_is(time.time() + 61, monkeypatch)
    assert standing.cancel(None) == [still_open]
    assert [each["id"] for each in standing.invites({})] == [expired]


def test_a_membership_holds_until_it_ends_and_is_renewed_before(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    founder, me, begun = key(1), home.load_or_create_key(), 1_800_000_000
    mesh = found_mesh(founder, bytes(32))
    chain = issue(founder, mesh, me.peer_id, begun)
    home.save_membership(replace(mesh, certificates=chain))
    standing = Standing(home, me)
    assert ending_told(standing.membership) == moment_told(begun + CERTIFICATE_TTL_S)
    for at, holds, may_renew in (
        (0, True, False),
        (CERTIFICATE_TTL_S - RENEWAL_S - 1, True, False),
        (CERTIFICATE_TTL_S - RENEWAL_S, True, True),
        (CERTIFICATE_TTL_S - 1, True, True),
        (CERTIFICATE_TTL_S + 86400, False, True),
    ):
        it_is(begun + at, monkeypatch)
        assert (standing.holds(), standing.may_renew()) == (holds, may_renew), at


def test_the_founders_membership_does_not_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    standing = Standing(home, home.load_or_create_key())
    it_is(1e10, monkeypatch)
    assert ending_told(standing.membership) is None
    assert standing.holds()
    assert not standing.may_renew()


def test_who_is_known_or_was_let_in_is_a_member_until_it_is_revoked(home: Home) -> None:
    standing = Standing(home, home.load_or_create_key())
    friend = key(2).peer_id
    assert not standing.has_members()
    home.save_peers({friend: Contact("bo", ())})
    assert standing.has_members()
    standing.revoke(friend)
    assert not standing.has_members()
    standing.invite(60, 2, "", (), may_invite=True)
    standing.ledger.use(standing.ledger.list()[0], friend)
    assert not standing.has_members()
    standing.ledger.use(standing.ledger.list()[0], key(3).peer_id)
    assert standing.has_members()
