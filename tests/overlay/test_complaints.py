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


def test_of_a_crowd_some_are_named_and_the_others_counted(caplog: pytest.LogCaptureFixture) -> None:
    all_of_them = Complaints()
    for name in range(340):
        for now in (1.0, 2.0):
            all_of_them.about(name, "lies", "a lie", now, head="ann")
    named, counted = said(caplog)[:20], said(caplog)[20:]
    assert named == [f"{name} lies: a lie" for name in range(20)]
    assert counted == [
        f"each of {2**power} or more others whom ann let in lies" for power in range(9)
    ], "320 were not named"

    caplog.clear()
    all_of_them.about("bob", "lies", "a lie", 3.0)
    all_of_them.about(7, "floods", "a flood", 3.0, head="ann")
    all_of_them.about(339, "lies", "a lie", 62.0, head="ann")
    assert said(caplog) == ["bob lies: a lie", "7 floods: a flood", "339 lies: a lie"]
