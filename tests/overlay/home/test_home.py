from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.errors import ConfigError, HomeInUse, NodeNotRunning
from overlay.home.contents import Contact, Runtime
from overlay.home.home import Home
from overlay.identity.certificates import Membership, found_mesh, issue
from overlay.identity.invites import InviteLedger
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.revocations import Revocations, revoke
from tests.overlay.identity.strategies import key

NOW = 1_800_000_000.0
MESH = found_mesh(key(1), b"m" * 32)
MEMBERSHIP = Membership(MESH.founder, MESH.mesh_secret, issue(key(1), MESH, key(2).peer_id, NOW))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "deep" / "home")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_reading_creates_nothing(home: Home) -> None:
    assert home.membership() is None
    assert home.peers() == {}
    assert home.ledger(key(1).peer_id).list() == []
    with pytest.raises(NodeNotRunning):
        home.runtime()
    assert not home.path.exists()


def test_the_key_is_made_once_and_private(home: Home) -> None:
    made = home.load_or_create_key()
    assert Home(home.path).load_or_create_key().peer_id == made.peer_id
    assert mode(home.path) == 0o700
    assert mode(home.path / "identity.key") == 0o600
    assert [path.name for path in home.path.iterdir()] == ["identity.key"]


def test_a_readable_key_is_made_private_with_a_note(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    home.load_or_create_key()
    (home.path / "identity.key").chmod(0o644)
    with caplog.at_level(logging.WARNING):
        home.load_or_create_key()
    assert mode(home.path / "identity.key") == 0o600
    assert "other users" in caplog.text


def test_a_lost_key_is_not_replaced_in_a_home_with_a_membership(home: Home) -> None:
    home.save_membership(MEMBERSHIP)
    with pytest.raises(ConfigError, match=r"identity\.key is gone"):
        home.load_or_create_key()


def test_everything_round_trips(home: Home) -> None:
    home.save_membership(MEMBERSHIP)
    assert home.membership() == MEMBERSHIP

    ledger = InviteLedger(key(2).peer_id)
    ledger.issue(NOW, 60, 1, "for Ben", b"s" * 16)
    home.save_ledger(ledger)
    assert home.ledger(key(2).peer_id).list() == ledger.list()

    peers = {
        key(n).peer_id: Contact("ben", (Multiaddr.of("192.0.2.7", n), Multiaddr.of("::1", n)))
        for n in (4, 5)
    }
    home.save_peers(peers)
    assert home.peers() == peers

    assert home.paused_since() is None
    home.save_paused(NOW)
    assert home.paused_since() == NOW

    assert all(mode(path) == 0o600 for path in home.path.iterdir())


def test_a_pause_ends(home: Home) -> None:
    home.save_paused(NOW)
    home.save_paused(None)
    assert home.paused_since() is None
    home.save_paused(None)


def test_incarnations_rise_even_when_the_clock_goes_back(home: Home) -> None:
    assert home.next_incarnation(1000) == 1000
    assert home.next_incarnation(500) == 1001
    assert Home(home.path).next_incarnation(1001) == 1002
    assert home.next_incarnation(5000) == 5000


def test_revocations_are_kept_by_mesh(home: Home) -> None:
    me, other = key(1), key(2)
    mine, theirs = (found_mesh(each, b"m" * 32) for each in (me, other))
    assert home.revocations(me.peer_id).records() == []
    own, foreign = Revocations(me.peer_id), Revocations(other.peer_id)
    own.add(revoke(me, mine, own, key(3).peer_id, NOW)[1])
    foreign.add(revoke(other, theirs, foreign, key(3).peer_id, NOW)[1])
    home.save_revocations(me.peer_id, own)
    # A node that joins another mesh may come back to the one that it founded.
    home.save_revocations(me.peer_id, foreign)
    assert home.revocations(me.peer_id).records() == own.records()
    assert home.revocations(other.peer_id).records() == foreign.records()
    home.save_revocations(me.peer_id, own)
    assert home.revocations(other.peer_id).records() == []


def test_a_mesh_is_forgotten_and_the_key_kept(home: Home) -> None:
    made = home.load_or_create_key()
    home.forget_mesh()
    home.save_membership(MEMBERSHIP)
    ledger = InviteLedger(made.peer_id)
    ledger.issue(NOW, 60, 1, "for Ben", b"s" * 16)
    home.save_ledger(ledger)
    home.save_peers({key(4).peer_id: Contact("ben", ())})
    home.forget_mesh()
    assert home.membership() is None
    assert home.ledger(made.peer_id).list() == []
    assert home.peers() == {}
    assert home.load_or_create_key().peer_id == made.peer_id


_READERS: dict[str, Callable[[Home], object]] = {
    "identity.key": Home.load_or_create_key,
    "membership.json": Home.membership,
    "revocations.json": lambda home: home.revocations(key(2).peer_id),
    "invites.json": lambda home: home.ledger(key(2).peer_id),
    "incarnation.json": lambda home: home.next_incarnation(1),
    "paused.json": Home.paused_since,
}
_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "binary": lambda whole: b"\xff\x00" + whole,
    "another shape": lambda whole: b'["x"]',
    "deep": lambda whole: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", _DAMAGES)
@pytest.mark.parametrize("name", _READERS)
def test_a_damaged_file_is_named_and_kept(home: Home, name: str, damage: str) -> None:
    home.load_or_create_key()
    home.save_membership(MEMBERSHIP)
    home.save_ledger(InviteLedger(key(2).peer_id))
    home.next_incarnation(7)
    home.save_revocations(key(2).peer_id, Revocations(key(2).peer_id))
    home.save_paused(NOW)
    path = home.path / name
    damaged = _DAMAGES[damage](path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match=rf"{name} is damaged: \w+"):
        _READERS[name](home)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("incarnation.json", '{"incarnation": Infinity}'),
        ("incarnation.json", '{"incarnation": 1e30}'),
        ("incarnation.json", '{"incarnation": -5}'),
        ("paused.json", '{"since": 1e15}'),
        ("paused.json", '{"since": NaN}'),
        ("paused.json", f'{{"since": 1{"0" * 400}}}'),
        ("name.json", '{"name": null}'),
        ("invites.json", '{"inviter": "%s", "invites": [%s]}'),
    ],
)
def test_numbers_that_cannot_be_are_damage(home: Home, name: str, damaged: str) -> None:
    readers = {**_READERS, "name.json": Home.name}
    if name == "invites.json":
        made = json.dumps({"secret": "00" * 16, "label": "", "uses": 1, "joined": []})
        damaged %= key(2).peer_id, made[:-1] + ', "issued_at": 1, "expires_at": 1e300}'
    home.load_or_create_key()
    (home.path / name).write_text(damaged)
    with pytest.raises(ConfigError, match=rf"{name} is damaged: \w+"):
        readers[name](home)


@pytest.mark.parametrize("damage", _DAMAGES)
def test_peers_that_cannot_be_read_are_set_aside(
    home: Home, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    ben = Contact("ben", (Multiaddr.of("192.0.2.7", 1),))
    home.save_peers({key(4).peer_id: ben})
    path = home.path / "peers.json"
    damaged = _DAMAGES[damage](path.read_bytes())
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert home.peers() == {}
    assert "peers.json cannot be read, and is set aside as peers.json.damaged" in caplog.text
    assert (home.path / "peers.json.damaged").read_bytes() == damaged
    home.save_peers({key(5).peer_id: ben})
    assert home.peers() == {key(5).peer_id: ben}


@pytest.mark.parametrize("name", ["identity.key", "membership.json", "paused.json", "lock"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(home: Home, name: str) -> None:
    home.path.mkdir(parents=True)
    os.mkfifo(home.path / name)
    reading = {
        "identity.key": home.load_or_create_key,
        "membership.json": home.membership,
        "paused.json": home.paused_since,
        "lock": home.lock,
    }
    with pytest.raises(ConfigError, match=f"cannot use .*{name}: "):
        reading[name]()


def test_a_pipe_is_no_running_node(home: Home) -> None:
    home.path.mkdir(parents=True)
    os.mkfifo(home.path / "lock")
    with pytest.raises(NodeNotRunning):
        home.runtime()


def test_peers_of_other_versions_are_read(home: Home) -> None:
    home.save_peers({})
    there = Multiaddr.of("192.0.2.7", 1)
    old, new = (str(key(n).peer_id) for n in (4, 5))
    told = {
        old: [str(there)],
        new: {"name": "ben", "addresses": [str(there), "/ip4/192.0.2.7/udp/1/quic"], "more": 1},
    }
    (home.path / "peers.json").write_text(json.dumps(told))
    assert home.peers() == {
        key(4).peer_id: Contact("", (there,)),
        key(5).peer_id: Contact("ben", (there,)),
    }


def test_a_key_with_a_flipped_digit_is_damaged(home: Home) -> None:
    home.load_or_create_key()
    path = home.path / "identity.key"
    text = path.read_text().strip()
    path.write_text(text[:-1] + ("0" if text[-1] != "0" else "1"))
    with pytest.raises(ConfigError, match="damaged"):
        home.load_or_create_key()


def test_a_ledger_of_another_node_is_refused(home: Home) -> None:
    home.save_ledger(InviteLedger(key(2).peer_id))
    with pytest.raises(ConfigError, match=r"invites\.json"):
        home.ledger(key(3).peer_id)


def test_a_write_that_fails_leaves_the_old_file(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.save_membership(MESH)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"membership\.json: No space left"):
        home.save_membership(MEMBERSHIP)
    assert home.membership() == MESH
    assert [path.name for path in home.path.iterdir()] == ["membership.json"]


def test_a_file_where_the_home_should_be(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    home = Home(tmp_path / "home")
    for access in (home.load_or_create_key, home.lock, home.runtime):
        with pytest.raises(ConfigError, match="cannot use"):
            access()


# --- The running node -------------------------------------------------------------------------


def test_one_node_per_home(home: Home) -> None:
    home.lock()
    with pytest.raises(HomeInUse, match=f"pid {os.getpid()}"):
        Home(home.path).lock()
    with pytest.raises(HomeInUse):
        home.lock()
    home.unlock()
    home.unlock()
    other = Home(home.path)
    other.lock()
    other.unlock()


def test_the_runtime_is_that_of_a_running_node(home: Home) -> None:
    home.lock()
    with pytest.raises(HomeInUse, match="still starting"):
        Home(home.path).runtime()
    home.write_runtime(api="http://127.0.0.1:7711", admin_token="t")
    expected = Runtime("http://127.0.0.1:7711", "t")
    assert Home(home.path).runtime() == expected
    assert mode(home.path / "runtime.json") == 0o600
    home.clear_runtime()
    with pytest.raises(HomeInUse):
        Home(home.path).runtime()
    home.unlock()


def test_a_dead_process_leaves_no_lock_and_no_runtime(home: Home) -> None:
    script = (
        "import os, sys; from pathlib import Path; from overlay.home.home import Home\n"
        "home = Home(Path(sys.argv[1])); home.lock()\n"
        "home.write_runtime(api='http://127.0.0.1:1', admin_token='t'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(home.path)]).returncode == 9
    assert (home.path / "runtime.json").exists()
    with pytest.raises(NodeNotRunning, match=r"hearth up.*--home DIR"):
        home.runtime()
    home.lock()
    with pytest.raises(HomeInUse, match="still starting"):
        home.runtime()
    home.unlock()
