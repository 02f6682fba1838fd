"""Where settings come from, and which of them wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.config import load_config
from overlay.errors import ConfigError
from overlay.home import Home


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
    with pytest.raises(ConfigError, match="HEARTH_LAN is 1 or 0"):
        load_config(tmp_path)
    monkeypatch.delenv("HEARTH_LAN")
    (tmp_path / "config.toml").write_text('lan = "false"')
    with pytest.raises(ConfigError, match="lan is true or false"):
        load_config(tmp_path)


def test_a_node_goes_on_under_the_name_it_was_given(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.save_name("ann")
    assert load_config(tmp_path).name == "ann"
    assert load_config(tmp_path, name="bea").name == "bea"
