"""Ctrl-C while an answer streams, which ends the wait for the next event, never a redraw midway;
and the signals that end a command, which leave it the time to say goodbye."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self, TypeVar

Event = TypeVar("Event")


class StopSwitch:
    """A context manager in the main thread; while it is open, Ctrl-C is counted in ``presses``."""

    def __init__(self) -> None:
        self.presses = 0
        self._waiting = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def each(self, events: Iterator[Event]) -> Iterator[Event]:
        """The events, until one press raises KeyboardInterrupt out of the wait for the next."""
        while True:
            self._waiting = True
            if self.presses:
                self._waiting = False
                raise KeyboardInterrupt
            try:
                event = next(events)
            except StopIteration:
                return
            finally:
                self._waiting = False
            yield event

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        self.presses += 1
        if self._waiting:
            # Once only: what follows (closing the stream) must not be interrupted in turn.
            self._waiting = False
            raise KeyboardInterrupt


def leave_closed_terminal(number: int) -> None:
    """After SIGHUP: what is still printed to a terminal that is gone goes nowhere, not wrong."""
    if number == signal.SIGHUP:
        for stream in (sys.stdout.fileno(), sys.stderr.fileno()):
            # A file or a journal has the last words all the same.
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def ending_signals() -> list[signal.Signals]:
    """What ends a command besides Ctrl-C: SIGTERM, and a terminal that closes."""
    outlives_terminal = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as nohup has it
    return [signal.SIGTERM] if outlives_terminal else [signal.SIGTERM, signal.SIGHUP]


@contextmanager
def unwinding() -> Iterator[None]:
    """In the main thread: the `ending_signals` end the process as an exit does."""
    ending = ending_signals()

    def end(number: int, frame: FrameType | None) -> None:
        # A terminal that closes is told of twice: by the kernel, and by its shell.
        for each in ending:
            signal.signal(each, signal.SIG_IGN)
        leave_closed_terminal(number)
        sys.exit(128 + number)

    previous = {number: signal.signal(number, end) for number in ending}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
