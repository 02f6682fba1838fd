"""Everybody who misbehaves is named, and nobody fills the disk with it."""

from __future__ import annotations

import pytest

from overlay import complaints
from overlay.complaints import Complaints


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_each_name_and_matter_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    all_of_them = Complaints()
    for now in (100.0, 101.0, 159.0):
        all_of_them.about("ann", "lies", "a lie", now)
        all_of_them.about("ann", "floods", "a flood", now)
        all_of_them.about("bob", "lies", "a lie", now)
    assert said(caplog) == [
        "ann lies: a lie",
        "ann floods: a flood",
        "bob lies: a lie",
    ]
    all_of_them.about("ann", "lies", "another lie", 160.0)
    assert said(caplog)[-1] == "ann lies: another lie"


def test_so_many_names_are_remembered(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(complaints, "_NAMES_MAX", 2)
    all_of_them = Complaints()
    for name in ("ann", "bob", "cyd", "cyd", "bob", "ann"):
        all_of_them.about(name, "lies", "a lie", 0.0)
    assert [line[:3] for line in said(caplog)] == ["ann", "bob", "cyd", "ann"]
