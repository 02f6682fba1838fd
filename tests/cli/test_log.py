"""What a node tells on its terminal, however restless its mesh is."""

from __future__ import annotations

import logging
import subprocess
import sys

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


def test_a_laptop_without_a_network_prints_no_traceback() -> None:
    """What zeroconf warns of goes away by itself, and `LanDiscovery` says what matters."""
    program = """
import logging
from cli.log import log_to_terminal
log_to_terminal()
import overlay.transport.lan
logging.getLogger("zeroconf").warning("Network is unreachable")
logging.getLogger("overlay.transport.lan").warning("members will not be found")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "Network is unreachable" not in done.stderr
    assert "members will not be found" in done.stderr
