"""Signals that end a command."""

from __future__ import annotations

import subprocess
import sys

_CLOSED = """
import signal
from cli.interrupts import leave_closed_terminal

leave_closed_terminal(signal.SIGHUP)
print("stopped")
"""


def test_last_words_reach_a_file_though_the_terminal_is_closed() -> None:
    command = [sys.executable, "-c", _CLOSED]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout == "stopped\n"
