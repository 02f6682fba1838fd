"""``hearth models pull`` as a real process, with an index that never answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

#: Far more than anything here takes on a busy machine.
_PATIENCE_S = 60.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    ["models pull demo", "up --no-lan --listen 127.0.0.1:0 --api 127.0.0.1:0"],
    ids=["pull", "up"],
)
def test_a_signal_ends_pip_too_and_leaves_nothing(
    tmp_path: Path, command: str, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(_PATIENCE_S)
        settings = {
            "HEARTH_HOME": str(tmp_path / "home"),
            "HEARTH_MODELS": str(tmp_path / "models"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"http://127.0.0.1:{index.getsockname()[1]}/simple",
        }
        strange = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX")
        environment = {k: v for k, v in os.environ.items() if k not in strange} | settings
        with (
            subprocess.Popen(
                [sys.executable, "-m", "cli", *command.split()],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # What a shell runs in the background ignores Ctrl-C, and so does all it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            ) as pull,
            _asked_by_pip(index) as asked,
        ):
            pull.send_signal(number)
            assert pull.wait(_PATIENCE_S) == 128 + number
            while asked.recv(1 << 16):  # until nobody waits for the answer
                pass
    assert {path.name for path in (tmp_path / "models").iterdir()} == {".lock"}


def _asked_by_pip(index: socket.socket) -> socket.socket:
    """Its connection. On a busy machine somebody else may dial a port that was theirs before."""
    while True:
        asked, _ = index.accept()
        asked.settimeout(_PATIENCE_S)
        if asked.recv(3, socket.MSG_PEEK) == b"GET":
            return asked
        asked.close()
