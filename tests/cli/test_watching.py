"""What `hearth status --watch` shows on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from cli.watching import WatchView
from tests.cli.fake_node import STATUS


def shown(height: int, problem: str = "") -> list[str]:
    console = Console(file=io.StringIO(), width=80, height=height, color_system=None)
    console.print(WatchView(STATUS, problem))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_how_to_leave_is_seen_on_a_low_terminal_too() -> None:
    whole = shown(40)
    assert whole[-1] == "q leaves"
    cut = shown(6)
    assert cut[:4] == whole[:4]
    more = len(whole) - 2 - 4
    assert cut[4:] == ["", f"q leaves · {more} lines not shown"]
    assert shown(6, "it went away")[-1] == "it went away"
