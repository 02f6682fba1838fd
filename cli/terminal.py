"""Where keys and texts come from: the terminal's own settings, and stdin."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TextIO


@contextmanager
def keys_unseen(*, outlast_ctrl_c: bool = False) -> Iterator[None]:
    """Keys pressed meanwhile are not echoed, which would spoil what is drawn.

    They wait for whoever reads next. Ctrl-C still works, and drops them, unless they are to
    ``outlast_ctrl_c``. Without a terminal nothing happens.
    """
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin, termios.TCSADRAIN)
    if outlast_ctrl_c:
        mode = termios.tcgetattr(sys.stdin)
        mode[3] |= termios.NOFLSH
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, mode)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def drop_keys() -> None:
    """Keys that nobody has read yet are not for whoever reads next, such as the shell."""
    if sys.stdin.isatty():
        import termios

        termios.tcflush(sys.stdin, termios.TCIFLUSH)


@contextmanager
def pastes_marked(terminal: IO[str]) -> Iterator[None]:
    """What is pasted meanwhile is one input for whoever reads next, however many lines it has."""
    terminal.write("\x1b[?2004h")
    terminal.flush()
    try:
        yield
    finally:
        terminal.write("\x1b[?2004l")
        terminal.flush()


def lenient_stdin() -> TextIO:
    """stdin, where bytes that are no UTF-8 are read as replacement characters, not refused."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return sys.stdin
