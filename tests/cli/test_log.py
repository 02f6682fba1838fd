"""What a node tells on its terminal, however restless its mesh is."""

from __future__ import annotations

import logging

from cli.log import Sparing


def record(level: int) -> logging.LogRecord:
    return logging.LogRecord("overlay.mesh_log", level, "", 0, "bea is UP", None, None)


def test_news_are_told_as_far_as_people_read_them_and_warnings_always() -> None:
    now = 0.0
    sparing = Sparing(lambda: now)
    told = sum(bool(sparing.filter(record(logging.INFO))) for _ in range(10_000))
    assert 100 <= told <= 101
    assert sparing.filter(record(logging.WARNING))
    now = 60.0
    told = sum(bool(sparing.filter(record(logging.INFO))) for _ in range(10_000))
    assert 10 <= told <= 13
