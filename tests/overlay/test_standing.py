"""What a home belongs to, with real files."""

import os
from pathlib import Path

import pytest

from overlay.errors import ConfigError
from overlay.home.home import Home
from overlay.standing import Standing


def test_an_invite_that_cannot_be_kept_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    standing = Standing(home, home.load_or_create_key())

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match="No space left"):
            standing.invite(60, 1, "for Bo", (), may_invite=True)
    assert standing.invites({}) == []
    assert standing.invite(60, 1, "for Bo", (), may_invite=True)["token"]
