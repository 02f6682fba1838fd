"""Where settings come from, and which of them wins."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.config import load_config, parse_size
from overlay.errors import ConfigError
from overlay.forwarding.terms import NO_BOUNDS, Terms
from overlay.home.home import Home


@pytest.mark.parametrize(
    ("written", "exported", "flag", "lan"),
    [
        ("", "", None, True),
        ("lan = false", "", None, False),
        ("lan = false", "1", None, True),
        ("lan = true", "no", None, False),
        ("lan = true", "1", False, False),
    ],
)
def test_a_flag_beats_the_environment_which_beats_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: str,
    exported: str,
    flag: bool | None,
    lan: bool,
) -> None:
    (tmp_path / "config.toml").write_text(written)
    monkeypatch.setenv("HEARTH_LAN", exported)
    assert load_config(tmp_path, lan=flag).lan is lan


def test_lan_is_yes_or_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_LAN", "perhaps")
    with pytest.raises(ConfigError, match="HEARTH_LAN must be 1 or 0"):
        load_config(tmp_path)
    monkeypatch.delenv("HEARTH_LAN")
    (tmp_path / "config.toml").write_text('lan = "false"')
    with pytest.raises(ConfigError, match="lan must be true or false"):
        load_config(tmp_path)


def test_the_router_is_asked_only_if_the_owner_says_so(tmp_path: Path) -> None:
    assert not load_config(tmp_path).map_port
    (tmp_path / "config.toml").write_text("map_port = true")
    assert load_config(tmp_path).map_port
    assert not load_config(tmp_path, map_port=False).map_port


def test_a_node_relays_unless_its_owner_declines(tmp_path: Path) -> None:
    assert load_config(tmp_path).relay
    assert not load_config(tmp_path, relay=False).relay


def test_only_a_machines_name_is_cut_to_what_friends_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "m" * 65)
    assert load_config(tmp_path).name == "m" * 64
    (tmp_path / "config.toml").write_text(f'name = "{"n" * 65}"')
    with pytest.raises(ConfigError, match="a node's name has 1 to 64 printable characters"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_not_the_same_as_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not blanks alone: give another one"):
        load_config(tmp_path, name=name)
    (tmp_path / "config.toml").write_text(f'name = "{name}"')
    with pytest.raises(ConfigError, match="not blanks alone: give another one"):
        load_config(tmp_path)


def test_a_node_goes_on_under_the_name_it_was_given(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.save_name("ann")
    assert load_config(tmp_path).name == "ann"
    assert load_config(tmp_path, name="bea").name == "bea"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512MB", 512_000_000),
        ("2GB", 2_000_000_000),
        ("2 gb", 2_000_000_000),
        ("1.5TB", 1_500_000_000_000),
        ("64KiB", 65_536),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2", "GB", "-1GB", "2G", "1e3MB", "2GB or so", "٢GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="write 2GB, 512MB, or 0 for none"):
        parse_size(text)


def test_the_caches_are_chosen_by_the_engine_and_off_the_disk(tmp_path: Path) -> None:
    config = load_config(tmp_path)
    assert (config.cells, config.ram_cache, config.disk_cache) == (0, None, 0)


def test_caches_are_set_like_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('cells = 4096\nram_cache = "1GB"\ndisk_cache = "5GB"\n')
    monkeypatch.setenv("HEARTH_RAM_CACHE", "0")
    config = load_config(tmp_path, disk_cache=7)
    assert (config.cells, config.ram_cache, config.disk_cache) == (4096, 0, 7)
    monkeypatch.setenv("HEARTH_CELLS", "512")
    assert load_config(tmp_path).cells == 512


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("cells = 100", "cells must be a number of KV cells: 256 or more"),
        ("cells = true", "cells must be a number of KV cells"),
        ('cells = "many"', "cells must be a number of KV cells"),
        ('ram_cache = "much"', "ram_cache: 'much' is no size"),
        ("disk_cache = 7", "disk_cache must be a string, in quotes"),
    ],
)
def test_caches_of_no_size(tmp_path: Path, written: str, says: str) -> None:
    (tmp_path / "config.toml").write_text(written)
    with pytest.raises(ConfigError, match=says):
        load_config(tmp_path)


@pytest.mark.parametrize("key", ["s\u00e9same", "\udcff", " sesame", "sesame\n", "open\tsesame"])
def test_an_api_key_that_no_client_can_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("HEARTH_API_KEY", key)
    with pytest.raises(ConfigError, match="no client can send it"):
        load_config(tmp_path)
    monkeypatch.setenv("HEARTH_API_KEY", "open sesame, 42!")
    assert load_config(tmp_path).api_key == "open sesame, 42!"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HEARTH_CELLS", "-1"), ("HEARTH_CELLS", "x"), ("HEARTH_DISK_CACHE", "x")],
)
def test_caches_of_no_size_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=variable):
        load_config(tmp_path)


def test_the_terms_for_guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_config(tmp_path).terms == NO_BOUNDS
    (tmp_path / "config.toml").write_text(
        'guest_requests = 4\nguest_tokens_per_minute = 20000\nprivate = ["mine"]'
    )
    assert load_config(tmp_path).terms == Terms(4, 20_000, ("mine",))
    monkeypatch.setenv("HEARTH_GUEST_REQUESTS", "3")
    monkeypatch.setenv("HEARTH_GUEST_TOKENS_PER_MINUTE", "900")
    monkeypatch.setenv("HEARTH_PRIVATE", "mine,other")
    assert load_config(tmp_path).terms == Terms(3, 900, ("mine", "other"))
    config = load_config(tmp_path, guest_requests=0, guest_tokens_per_minute=1, private=("only",))
    assert config.terms == Terms(0, 1, ("only",))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("guest_requests = -1", "guest_requests must be a number of requests"),
        ("guest_requests = true", "guest_requests must be a number of requests"),
        (
            "guest_tokens_per_minute = 0",
            "guest_tokens_per_minute must be a number of tokens: 1 or more",
        ),
        ('private = "mine"', "private must be a list of names"),
    ],
)
def test_odd_terms_are_refused(tmp_path: Path, written: str, reason: str) -> None:
    (tmp_path / "config.toml").write_text(written)
    with pytest.raises(ConfigError, match=reason):
        load_config(tmp_path)


def test_private_names_are_the_models_own_or_aliases() -> None:
    terms = Terms(private=("Demo", "Mine"))
    assert terms.is_private("SmolLM2", ("demo",))
    assert terms.is_private("Mine", ())
    assert terms.is_private("mine", ("other",))
    assert not terms.is_private("theirs", ("other",))


@pytest.mark.parametrize(
    ("make", "reason"), [(os.mkdir, "Is a directory"), (os.mkfifo, "it is no regular file")]
)
def test_a_file_that_cannot_be_read_is_named_plainly(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match=rf"config\.toml cannot be read: {reason}$"):
        load_config(tmp_path)


def test_lists_of_the_environment_may_have_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_MODEL", "demo, other-model")
    assert load_config().models == ("demo", "other-model")


@pytest.mark.parametrize("name", ["HEARTH_HOME", "HEARTH_MODELS"])
def test_a_home_of_nobody_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "~nobody-of-that-name/hearth")
    with pytest.raises(ConfigError, match="~nobody-of-that-name/hearth: there is no user with"):
        load_config()
