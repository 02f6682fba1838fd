"""What takes a while, shown on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cli.terminal import keys_unseen
from cli.text import printable, size


class StartAborted(Exception):
    """Nobody waits for the node any more."""


class StepProgress:
    """A context manager; call it with (what is under way, how far from 0 to 1)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._aborted = False
        self._terminal = ExitStack()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._terminal.enter_context(keys_unseen())
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()
        self.close()

    def close(self) -> None:
        """Take the bars away; idempotent."""
        self._bars.stop()
        self._terminal.close()

    def abort(self) -> None:
        """Let the next call raise StartAborted, which ends what reports here (a download)."""
        self._aborted = True

    def __call__(self, step: str, fraction: float) -> None:
        if self._aborted:
            raise StartAborted
        step = printable(step)
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=1.0)
            if not self._console.is_terminal:
                self._console.print(step, markup=False, highlight=False, soft_wrap=True)
        self._bars.update(self._tasks[step], completed=fraction)


class DownloadProgress:
    """A context manager; call it with (bytes so far, bytes in all)."""

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._what = what
        self._bars = Progress(
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            # Not before: a model that is there already shows no bar.
            text = f"fetching {printable(self._what)} ({size(total)})"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
            self._bars.start()
            self._task = self._bars.add_task("", total=total)
        self._bars.update(self._task, completed=done, total=total)
