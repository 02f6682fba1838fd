"""``hearth revoke``, ``hearth leave`` and the invites, with a node and without one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.client import NodeClient
from cli.members import find_member, invited_through
from cli.text import short_peer
from overlay.errors import IdentityError
from overlay.home.contents import Contact
from overlay.home.home import Home
from overlay.identity.certificates import Membership, found_mesh, issue
from overlay.identity.invites import SECRET_BYTES
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import ADDRESSES_MAX, HANDSHAKE_S, TOKEN_ADDRESSES_MAX
from overlay.standing import Standing
from tests.cli.conftest import Run
from tests.cli.fake_node import ADMIN_TOKEN, GONE_ID, INVITES, STATUS, FakeBackend, FakeNode
from tests.overlay.identity.strategies import key
from tests.support.recorder import FRIEND_ID

FRIEND = PeerId.parse(FRIEND_ID)


# --- With a node ------------------------------------------------------------------------------


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("peer", ["bea", FRIEND_ID, FRIEND_ID[-4:], "12D3…UERE"])
def test_revoke(run: Run, backend: FakeBackend, peer: str) -> None:
    result = run("revoke", peer, "--yes")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "bea (12D3…UERE) is no member any more.\n"
    assert json.loads(run("revoke", peer, "--json").stdout)["peer_id"] == FRIEND_ID
    assert backend.revoked == [FRIEND, FRIEND]


@pytest.mark.usefixtures("node")
def test_revoke_who_was_not_seen_since_the_node_started(run: Run, backend: FakeBackend) -> None:
    met, let_in = key(7).peer_id, key(8).peer_id
    backend.state = {**STATUS, "absent": [{"peer_id": str(met), "name": "dora"}]}
    backend.invited = [{**INVITES[1], "joined": [{"peer_id": str(let_in), "name": ""}]}]
    for peer in ("dora", short_peer(str(let_in))):
        result = run("revoke", peer, "--yes")
        assert (result.exit_code, result.stderr) == (0, "")
    assert backend.revoked == [met, let_in]


@pytest.mark.usefixtures("node")
def test_revoke_nobody(run: Run, backend: FakeBackend) -> None:
    result = run("revoke", "eve")
    assert result.exit_code == 1
    assert "no member is known as eve" in result.stderr
    assert backend.revoked == []


@pytest.mark.usefixtures("node")
def test_a_mistyped_peer_id_is_doubted(
    run: Run, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistyped = str(key(9).peer_id)
    doubted = f"No such member is known here: is {mistyped} right?"
    assert doubted in run("revoke", mistyped, "--yes").stdout
    assert doubted not in run("revoke", FRIEND_ID, "--yes").stdout
    assert json.loads(run("revoke", mistyped, "--json").stdout)["peer_id"] == mistyped
    monkeypatch.setattr("cli.options._answers", lambda: True)
    assert doubted in run("revoke", mistyped, input="n\n").stderr
    assert backend.revoked == [key(9).peer_id, FRIEND, key(9).peer_id]


def test_without_a_node_a_mistyped_peer_id_is_doubted_too(run: Run, home: Path) -> None:
    member_of(home, founder=1, me=1)
    mistyped = str(key(9).peer_id)
    assert f"is {mistyped} right?" in run("revoke", mistyped, "--yes").stdout
    assert "right?" not in run("revoke", "bea", "--yes").stdout


@pytest.mark.usefixtures("node")
def test_on_a_terminal_one_is_asked(
    run: Run, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    friend = {**STATUS["peers"][1], "invited_by": None}
    gone = {**STATUS["peers"][0], "invited_by": FRIEND_ID}
    ends = "2999-01-01T12:00:00+00:00"
    backend.state = {**STATUS, "peers": [friend, gone], "membership_ends": ends}
    monkeypatch.setattr("cli.options._answers", lambda: True)
    result = run("revoke", "bea", input="n\n")
    assert result.exit_code == 1
    question = "Revoke bea (12D3…UERE)? 1 other joined through it: carl (12D3…8bHX)."
    assert question in result.stderr
    assert run("leave", input="\n").exit_code == 1
    assert run("leave", input="").exit_code == 130, "as Ctrl-C: there is no answer"
    assert (backend.revoked, backend.left) == ([], False)
    assert run("revoke", "bea", input="y\n").exit_code == 0
    assert run("leave", input="y\n").exit_code == 0
    assert (backend.revoked, backend.left) == ([FRIEND], True)
    # Nothing to read.
    told = run("revoke", "bea", "--yes").stdout
    assert told.endswith(" Nor is who joined through it: carl (12D3…8bHX).\n")
    assert run("leave", "--yes").exit_code == 0


@pytest.mark.usefixtures("node")
def test_where_nobody_can_be_asked_one_has_to_agree_before(run: Run, backend: FakeBackend) -> None:
    backend.state = {**STATUS, "membership_ends": "2999-01-01T12:00:00+00:00"}
    for command in (("revoke", "bea"), ("leave",)):
        result = run(*command)
        assert (result.exit_code, "agree with --yes" in result.stderr) == (2, True)
    assert (backend.revoked, backend.left) == ([], False)


@pytest.mark.usefixtures("node")
def test_leave(run: Run, backend: FakeBackend) -> None:
    assert run("leave", "--yes").stdout == "Left the mesh 5dsiD3bYcYrRrMGLmnsbHeEJ.\n"
    assert backend.left
    assert json.loads(run("leave", "--json").stdout) == {"mesh_id": "5dsiD3bYcYrRrMGLmnsbHeEJ"}


def test_a_join_is_waited_for_until_each_address_of_the_token_has_been_tried(
    node: FakeNode,
) -> None:
    """Else it is the own node that is said not to answer; who leaves waits for a join, too."""
    asked: list[httpx.Request] = []
    with NodeClient(node.api_url, ADMIN_TOKEN) as client:
        client._http.event_hooks = {"request": [asked.append]}
        client.join("hearth1")
        client.leave()
    for request in asked:
        patience_s = request.extensions["timeout"]["read"]
        assert patience_s > TOKEN_ADDRESSES_MAX * ADDRESSES_MAX * HANDSHAKE_S


@pytest.mark.usefixtures("node")
def test_invites_are_listed(run: Run) -> None:
    assert json.loads(run("invite", "--list", "--json").stdout) == INVITES
    first, second = run("invite", "--list").stdout.splitlines()[1:]
    assert first.split()[:4] == ["893a6f21", "open", "for", "Carl"]
    assert "0 of 2" in first
    assert second.startswith("1f0c7a1e  used up  may not invite")
    assert second.rstrip().endswith("1 of 1  bea (12D3…UERE)")


@pytest.mark.usefixtures("node")
def test_invites_are_cancelled(run: Run, backend: FakeBackend) -> None:
    result = run("invite", "--cancel", "893a")
    assert result.stdout == "Cancelled 1 invite: 893a6f21cea98b58\n"
    assert run("invite", "--cancel", "all").stdout.startswith("Cancelled 2 invites: 893a")
    assert backend.cancelled == ["893a", None]
    assert len(json.loads(run("invite", "--cancel", "all", "--json").stdout)["cancelled"]) == 2
    result = run("invite", "--cancel", "ffff")
    assert (result.exit_code, result.stderr) == (1, "error: there is no invite ffff\n")
    for name in ("for Carl", "caf\udce9"):
        assert "is no invite's id" in run("invite", "--cancel", name).stderr
    assert run("invite", "--cancel", "all", "--list").exit_code == 2
    assert "or all" in run("invite", "--cancel", "").stderr


@pytest.mark.parametrize("other", ["--list", "--cancel=all"])
@pytest.mark.parametrize("option", ["--qr", "--uses=1", "--expires=1h", "--label=x", "--no-invite"])
@pytest.mark.usefixtures("node")
def test_what_a_new_invite_is_to_be_is_said_of_no_old_one(
    run: Run, backend: FakeBackend, other: str, option: str
) -> None:
    result = run("invite", other, option)
    assert result.exit_code == 2
    assert f"{option.partition('=')[0]} is for a new invite" in result.stderr
    assert backend.cancelled == []


@pytest.mark.usefixtures("node")
def test_an_invite_whose_guests_invite_nobody(run: Run, backend: FakeBackend) -> None:
    run("invite", "--no-invite", "--label", "Ann")
    assert backend.orders == [(86_400, 1, "Ann", False)]


@pytest.mark.usefixtures("node")
def test_status_tells_of_revocations(run: Run, backend: FakeBackend) -> None:
    ended = {"peer_id": STATUS["peer_id"], "by": FRIEND_ID, "at": "2030-01-01T12:00:00+00:00"}
    others = [{**ended, "peer_id": f"12D3KooWOther{number}"} for number in range(5)]
    # This node was thrown out once and came back: it is not listed.
    backend.state = {**STATUS, "revoked": None, "revocations": [ended, *others]}
    told = run("status").stdout
    assert "thrown out" in told
    assert "2 more" in told
    backend.state = {**STATUS, "revoked": ended, "revocations": [ended]}
    lines = run("status").stdout.splitlines()
    assert any(
        "revoked" in line and "by bea (12D3…UERE) on 2030-01-01: ask for a new invite" in line
        for line in lines
    )
    assert not any("thrown out" in line for line in lines)


@pytest.mark.usefixtures("node")
def test_status_tells_of_a_membership_that_ends_soon(run: Run, backend: FakeBackend) -> None:
    for ends, told in (("2020-01-01T12:00:00+00:00", True), ("2999-01-01T12:00:00+00:00", False)):
        backend.state = {**STATUS, "membership_ends": ends}
        assert ("until 2020-01-01: ask for a new invite" in run("status").stdout) == told


# --- Without a node ---------------------------------------------------------------------------


def member_of(path: Path, founder: int, me: int) -> Home:
    """A home that is a member, or the founder, and knows two others."""
    home = Home(path)
    founded = found_mesh(key(founder), b"m" * 32)
    path.mkdir(parents=True, exist_ok=True)
    (path / "identity.key").write_text(f"{key(me).peer_id} {key(me).seed.hex()}\n")
    chain = () if me == founder else issue(key(founder), founded, key(me).peer_id, 1_790_000_000)
    home.save_membership(Membership(founded.founder, founded.mesh_secret, chain))
    address = Multiaddr.of("192.0.2.7", 7710)
    home.save_peers({FRIEND: Contact("bea", (address,)), key(3).peer_id: Contact("cyd", ())})
    return home


def test_revoke_without_a_node(run: Run, home: Path) -> None:
    at_home = member_of(home, founder=1, me=1)
    result = run("revoke", "bea", "--yes", "--home", str(home))
    assert result.exit_code == 0, result.stderr
    assert "bea (12D3…UERE) is no member any more." in result.stdout
    assert f"once this node runs: hearth up --home {home}" in result.stdout
    [revocation] = at_home.revocations(key(1).peer_id)
    assert revocation.subject == FRIEND
    assert at_home.peers().keys() == {key(3).peer_id}
    # The home is free for the node, which tells the others.
    assert [each.subject for each in Standing(at_home, key(1)).revocations] == [FRIEND]


def test_without_a_node_a_guest_of_an_invite_is_known_too(run: Run, home: Path) -> None:
    at_home = member_of(home, founder=1, me=1)
    standing = Standing(at_home, key(1))
    now = time.time()
    invite = standing.ledger.issue(now, 60, 1, "", b"s" * SECRET_BYTES, may_invite=True)
    guest = key(7).peer_id
    standing.ledger.use(invite, guest)
    standing.save_ledger()
    result = run("revoke", short_peer(str(guest)), "--yes")
    assert result.exit_code == 0, result.stderr
    assert [each.subject for each in at_home.revocations(key(1).peer_id)] == [guest]


def test_who_did_not_invite_cannot_revoke(run: Run, home: Path) -> None:
    at_home = member_of(home, founder=1, me=2)
    result = run("revoke", "bea", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["code"] == "identity"
    assert len(at_home.peers()) == 2


def test_leave_without_a_node(run: Run, home: Path) -> None:
    at_home = member_of(home, founder=1, me=2)
    result = run("leave", "--yes")
    assert result.stdout.startswith("Left the mesh ")
    assert at_home.membership() is None
    assert at_home.load_or_create_key().peer_id == key(2).peer_id
    result = run("leave")
    assert (result.exit_code, "belongs to no mesh" in result.stderr) == (1, True)


def test_a_founder_does_not_leave_and_is_not_asked(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.options._answers", lambda: True)
    at_home = member_of(home, founder=1, me=1)
    result = run("leave")
    assert (result.exit_code, "founded its mesh" in result.stderr) == (1, True)
    assert at_home.membership() is not None


@pytest.mark.parametrize("command", [("revoke", FRIEND_ID), ("leave",)])
def test_a_home_that_is_none_is_not_created(run: Run, home: Path, command: tuple[str, ...]) -> None:
    assert run(*command).exit_code == 1
    assert not home.exists()


# --- Who is meant -----------------------------------------------------------------------------


def test_a_member_is_found_when_it_is_clear_which() -> None:
    names = {FRIEND_ID: "bea", GONE_ID: "bea", str(key(1).peer_id): "8bHX", str(key(2).peer_id): ""}
    assert find_member(str(key(9).peer_id), {}) == str(key(9).peer_id)
    assert find_member(FRIEND_ID[-6:], names) == FRIEND_ID
    # A name goes before the end of a PeerId.
    assert find_member("8bHX", names) == str(key(1).peer_id)
    for unclear in ("bea", "", "ERE", "x", "\x1b[2J"):
        with pytest.raises(IdentityError) as caught:
            find_member(unclear, names)
        assert "\x1b" not in str(caught.value)


def test_those_who_joined_through_a_member() -> None:
    peers: list[dict[str, Any]] = [
        {"peer_id": "b", "invited_by": "a"},
        {"peer_id": "c", "invited_by": "b"},
        {"peer_id": "a", "invited_by": "c"},
        {"peer_id": "d", "invited_by": None},
        {"peer_id": "e"},
    ]
    assert [peer["peer_id"] for peer in invited_through("a", peers)] == ["b", "c"]
    assert invited_through("e", peers) == []
