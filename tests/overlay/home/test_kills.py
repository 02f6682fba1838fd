"""Whoever is killed while it writes its home is a member of the one mesh or of the other."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from overlay.errors import AlreadyMember, ConfigError
from overlay.home.contents import Contact
from overlay.home.home import Home
from overlay.identity.certificates import Membership, found_mesh, issue
from overlay.identity.invites import InviteLedger, JoinToken
from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.joining import join_mesh
from overlay.limits import CERTIFICATE_TTL_S
from overlay.standing import Standing
from overlay.wire.messages import VERSIONS, Hello
from tests.overlay.identity.strategies import key

FOUNDER, OTHER_FOUNDER = key(1), key(2)
HERE = Multiaddr.of("192.0.2.7", 7710)


class Killed(BaseException):
    """Nothing of the process runs after this."""


class Disk:
    """Counts the steps that change a disk, and fails at one of them and ever after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left = 0
        self._error: Callable[[], BaseException] | None = None
        for owner, name in (
            (os, "fsync"),
            (os, "open"),
            (os, "ftruncate"),
            (os, "pwrite"),
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "mkdir"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def fail_at(self, step: int, error: Callable[[], BaseException]) -> None:
        self._left, self._error = step, error

    def mend(self) -> None:
        self._error = None

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._error is not None:
                if self._left == 0:
                    raise self._error()
                self._left -= 1
            return call(*args, **kwargs)

        return counted


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def no_room() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def membership(founder: NodeKey, member: NodeKey, *, days_left: float = 300) -> Membership:
    mesh = found_mesh(founder, b"m" * 32)
    now = time.time() + days_left * 86400 - CERTIFICATE_TTL_S
    return Membership(mesh.founder, mesh.mesh_secret, issue(founder, mesh, member.peer_id, now))


def a_home(path: Path, *, days_left: float) -> Home:
    """Of a member of `FOUNDER`'s mesh that has met somebody and invited another one."""
    home = Home(path)
    me = home.load_or_create_key()
    home.save_membership(membership(FOUNDER, me, days_left=days_left))
    home.save_peers({FOUNDER.peer_id: Contact("ann", (HERE,))})
    standing = Standing(home, me)
    if days_left > 0:
        standing.invite(3600, 1, "for Ben", (HERE,), may_invite=True)
    return home


def token_of(founder: NodeKey) -> JoinToken:
    mesh = found_mesh(founder, b"m" * 32)
    invite = InviteLedger(founder.peer_id).issue(time.time(), 60, 1, "", b"s" * 16)
    return JoinToken.of(invite, founder.peer_id, mesh.mesh_id, (HERE,))


def join_with(founder: NodeKey, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """`join_mesh`, by way of an inviter that always lets in."""

    async def let_in(me: NodeKey, token: JoinToken, name: str) -> tuple[Membership, Hello]:
        granted = membership(founder, me)
        hello = Hello(VERSIONS, founder.peer_id, granted.mesh_id, "ann", (), (), b"n" * 16)
        return granted, hello

    monkeypatch.setattr("overlay.joining.join", let_in)
    asyncio.run(join_mesh(home, token_of(founder), "me"))


def leave(home: Home) -> None:
    Standing(home, home.load_or_create_key()).leave()


def failing_steps(
    act: Callable[[Home], None],
    make: Callable[[Path], Home],
    path: Path,
    disk: Disk,
    error: Callable[[], BaseException],
) -> Iterator[tuple[Home, bool]]:
    """A home for each step of ``act`` that fails, in turn; and whether all is done by then."""
    for step in itertools.count():
        home = make(path / str(step))
        disk.fail_at(step, error)
        try:
            act(home)
        except (Killed, ConfigError):
            done = False
        else:
            done = True
        disk.mend()
        yield Home(home.path), done
        if done:
            assert step > 2, "it changes nothing"
            return


ERRORS = pytest.mark.parametrize("error", [Killed, no_room])


@ERRORS
def test_a_renewal_loses_neither_the_old_membership_nor_the_members(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    for home, done in failing_steps(
        lambda home: join_with(FOUNDER, home, monkeypatch),
        lambda path: a_home(path, days_left=3),
        tmp_path,
        disk,
        error,
    ):
        standing = Standing(home, home.load_or_create_key())
        assert standing.holds()
        assert standing.membership.founder == FOUNDER.peer_id
        assert FOUNDER.peer_id in home.peers()
        assert [invite.label for invite in standing.ledger.list()] == ["for Ben"]
        assert standing.may_renew() or home.membership() == standing.membership
        if done:
            assert not standing.may_renew()


@ERRORS
def test_who_joins_is_in_one_mesh_or_the_other_and_may_try_again(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    def founder_of_its_own(path: Path) -> Home:
        home = Home(path)
        Standing(home, home.load_or_create_key()).invite(60, 1, "own", (), may_invite=True)
        return home

    for make in (founder_of_its_own, Home, lambda path: a_home(path, days_left=-1)):
        for home, done in failing_steps(
            lambda home: join_with(OTHER_FOUNDER, home, monkeypatch),
            make,
            tmp_path / make.__name__,
            disk,
            error,
        ):
            before = home.membership()
            joined = before is not None and before.founder == OTHER_FOUNDER.peer_id
            assert joined or not done
            if joined and home.peers():
                with pytest.raises(AlreadyMember):
                    join_with(OTHER_FOUNDER, home, monkeypatch)
            else:
                join_with(OTHER_FOUNDER, home, monkeypatch)
            standing = Standing(home, home.load_or_create_key())
            assert standing.membership.founder == OTHER_FOUNDER.peer_id
            assert standing.ledger.list() == [], "no invite of one mesh is one of another"
            assert list(home.peers()) == [OTHER_FOUNDER.peer_id]


@ERRORS
def test_who_leaves_is_a_member_still_or_none(
    tmp_path: Path, disk: Disk, error: Callable[[], BaseException]
) -> None:
    for home, done in failing_steps(
        leave, lambda path: a_home(path, days_left=300), tmp_path, disk, error
    ):
        left = home.membership() is None
        assert left or not done
        standing = Standing(home, home.load_or_create_key())
        if left:
            assert standing.membership.founder == home.load_or_create_key().peer_id
        assert bool(home.peers()) == bool(standing.ledger.list()) == (not left)


@ERRORS
def test_what_a_command_confirmed_is_kept(
    tmp_path: Path, disk: Disk, error: Callable[[], BaseException]
) -> None:
    def revoke_and_invite(home: Home) -> None:
        standing = Standing(home, home.load_or_create_key())
        standing.revoke(key(5).peer_id)
        told.append("revoked")
        standing.invite(60, 1, "new", (), may_invite=True)
        told.append("invited")

    def founder(path: Path) -> Home:
        told.clear()
        home = Home(path)
        Standing(home, home.load_or_create_key())
        home.save_peers({key(n).peer_id: Contact("", ()) for n in (5, 6)})
        return home

    told: list[str] = []
    for home, _ in failing_steps(revoke_and_invite, founder, tmp_path, disk, error):
        standing = Standing(home, home.load_or_create_key())
        revoked = [each.subject for each in standing.revocations]
        assert revoked == [key(5).peer_id] or "revoked" not in told
        assert len(standing.ledger.list()) == 1 or "invited" not in told
        assert key(6).peer_id in home.peers()


@ERRORS
def test_a_first_start_that_was_cut_short_is_made_good_by_the_next(
    tmp_path: Path, disk: Disk, error: Callable[[], BaseException]
) -> None:
    def start(home: Home) -> None:
        try:
            home.lock()
            Standing(home, home.load_or_create_key())
            home.next_incarnation(1)
            home.write_runtime(api="http://127.0.0.1:1", admin_token="t")
        finally:
            home.unlock()

    for home, _ in failing_steps(start, Home, tmp_path, disk, error):
        start(home)
        assert not list(home.path.glob(".*.new"))
