"""``hearth status --watch``: the same view, again each second."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import SegmentLines
from rich.text import Text

from cli.session import running_client
from cli.status_view import status_view
from cli.terminal import keys_unseen
from cli.text import count, printable
from overlay.errors import HearthError

if TYPE_CHECKING:
    from overlay.config import NodeConfig

_INTERVAL_S = 1.0


def watch_status(config: NodeConfig, as_json: bool) -> None:
    """Until Ctrl-C, or q on a terminal. A pipe gets one view, or one line of JSON, each second.

    Raises HearthError if the node cannot be asked at first; later the last view stays.
    """
    console = Console()
    status = _ask(config)
    with suppress(KeyboardInterrupt):
        if as_json or not console.is_terminal:
            while True:
                if as_json:
                    click.echo(json.dumps(status, ensure_ascii=False))
                else:
                    console.print(status_view(status))
                sys.stdout.flush()
                time.sleep(_INTERVAL_S)
                status = _ask(config)
        _watch_live(config, console, status)


def _watch_live(config: NodeConfig, console: Console, status: dict[str, Any]) -> None:
    problem = ""
    with (
        _keys() as key,
        Live(WatchView(status, problem), console=console, screen=True, auto_refresh=False) as live,
    ):
        while key() not in ("q", "Q"):
            try:
                status, problem = _ask(config), ""
            except HearthError as error:
                problem = str(error)
            live.update(WatchView(status, problem), refresh=True)


def _ask(config: NodeConfig) -> dict[str, Any]:
    # The node may have restarted on another port since.
    with running_client(config) as client:
        return client.status()


class WatchView:
    """The status and, below it, what went wrong or how to leave; what does not fit is counted."""

    def __init__(self, status: dict[str, Any], problem: str) -> None:
        self._status = status
        self._problem = problem

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbound = options.update(height=None)
        lines = console.render_lines(status_view(self._status), unbound, pad=False)
        hint = "q leaves"
        room = max(1, console.height - 2)
        if len(lines) > room:
            hint += f" · {count(len(lines) - room, 'line')} not shown"
        yield SegmentLines(lines[:room], new_lines=True)
        yield Text()
        yield Text(printable(self._problem), "red") if self._problem else Text(hint, "dim")


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits up to a second for a key and gives it, or ""."""
    if not sys.stdin.isatty():
        yield lambda: time.sleep(_INTERVAL_S)
        return

    def key() -> str:
        ready, _, _ = select.select([sys.stdin], [], [], _INTERVAL_S)
        # Not through sys.stdin's buffer, which select does not see.
        return os.read(sys.stdin.fileno(), 1).decode("ascii", "ignore") if ready else ""

    with keys_unseen():
        yield key
