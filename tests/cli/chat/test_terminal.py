"""The chat on a real pseudo-terminal, in a process of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from models.engine import Message
from overlay.http.backend import Text
from tests.cli.fake_node import ANSWERED, FakeBackend, Hold

_PATIENCE_S = 60
_CURSOR_QUERY = b"\x1b[6n"


class Terminal:
    """The other end of a command's terminal."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self._unmatched = b""

    def close(self) -> None:
        """As a terminal's window does."""
        os.close(self._master)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def expect(self, text: str) -> None:
        """Read until ``text`` has been shown since the last match."""
        wanted = text.encode()
        give_up = time.monotonic() + _PATIENCE_S
        while wanted not in self._unmatched:
            left = give_up - time.monotonic()
            assert select.select([self._master], [], [], max(0, left))[0], self._unmatched.decode()
            try:
                data = os.read(self._master, 65_536)
            except OSError:  # Linux's way of saying that the other end is closed
                data = b""
            assert data, f"ended before {text!r}: {self._unmatched.decode()}"
            if _CURSOR_QUERY in data:
                os.write(self._master, b"\x1b[1;1R")
            self._unmatched += data
        self._unmatched = self._unmatched.partition(wanted)[2]

    def rest(self) -> str:
        """What an ended command has shown since the last match."""
        with suppress(OSError):  # Linux's way of saying that the other end is closed
            while data := os.read(self._master, 65_536):
                self._unmatched += data
        return self._unmatched.decode()


@contextmanager
def terminal(
    *arguments: str, kind: str = "xterm-256color", columns: int = 80
) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        # As in every terminal, even if the tests run in a background that Ctrl-C does not reach.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**environment, "TERM": kind},
        preexec_fn=take_terminal,
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        with suppress(OSError):  # closed before
            os.close(master)


@pytest.mark.usefixtures("node")
def test_ctrl_c_stops_the_answer_and_then_leaves(backend: FakeBackend) -> None:
    hold = Hold()
    backend.scripts.append((Text("Half an ans"), hold, ANSWERED))
    with terminal("chat") as screen:
        screen.expect("/help shows the commands")
        screen.expect("> ")
        screen.type("Hi\r")
        screen.expect("Half an ans")
        assert hold.reached.wait(_PATIENCE_S)
        screen.type("\x03")
        assert hold.cancelled.wait(_PATIENCE_S)
        screen.expect("stopped")
        screen.expect("> ")
        screen.type("draft\x03")
        screen.type("Go on\r")
        screen.expect("Hello.")
        screen.expect("saved ~2.1 s")
        screen.expect("> ")
        screen.type("\x03")
        screen.expect("once more leaves")
        screen.expect("> ")
        screen.type("\x03")
        assert screen.process.wait(_PATIENCE_S) == 0
    asked = [ask.prompt[-1] for ask in backend.asks]
    assert asked == [Message("user", "Hi"), Message("user", "Go on")]


@pytest.mark.usefixtures("node")
def test_what_is_pasted_during_an_answer_is_one_question(backend: FakeBackend) -> None:
    """A terminal marks pastes only while it is asked to; else each of their lines is sent."""
    pasted = threading.Event()
    backend.scripts.append((Text("Half an ans"), pasted, ANSWERED))
    with terminal("chat") as screen:
        screen.expect("/help shows the commands")
        screen.expect("> ")
        screen.type("Hi\r")
        screen.expect("\x1b[?2004l")
        screen.expect("\x1b[?2004h")
        screen.expect("Half an ans")
        screen.type("\x1b[200~one\rtwo\r\x1b[201~\r")
        pasted.set()
        screen.expect("Hello.")
    asked = [ask.prompt[-1] for ask in backend.asks]
    assert asked == [Message("user", "Hi"), Message("user", "one\ntwo")]


@pytest.mark.usefixtures("node")
def test_what_was_typed_before_ctrl_c_stays_in_the_line(backend: FakeBackend) -> None:
    hold = Hold()
    backend.scripts.append((Text("Half an ans"), hold, ANSWERED))
    with terminal("chat") as screen:
        screen.expect("/help shows the commands")
        screen.expect("> ")
        screen.type("Hi\r")
        screen.expect("Half an ans")
        assert hold.reached.wait(_PATIENCE_S)
        screen.type("Go\x03")
        screen.expect("stopped")
        screen.expect("Go")
        screen.type(" on\r")
        screen.expect("Hello.")
    asked = [ask.prompt[-1] for ask in backend.asks]
    assert asked == [Message("user", "Hi"), Message("user", "Go on")]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_chat_whose_window_is_closed_stops_its_own_node_in_order(
    home: Path, number: signal.Signals
) -> None:
    with terminal("chat", "--model", "none") as screen:
        screen.expect("/help shows the commands")
        screen.expect("> ")
        assert (home / "runtime.json").exists()
        screen.close() if number == signal.SIGHUP else screen.process.terminate()
        assert screen.process.wait(_PATIENCE_S) == 128 + number
    assert not (home / "runtime.json").exists(), "it said no goodbye"


@pytest.mark.parametrize(
    "arguments",
    [("chat",), ("ask", "Hi"), ("up", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0")],
    ids=["chat", "ask", "up"],
)
def test_a_window_that_is_closed_while_something_is_drawn_is_no_bug(
    home: Path, tiny_model: Path, arguments: tuple[str, ...]
) -> None:
    model = ("--model", str(tiny_model))
    with terminal(*arguments, *model) as screen:
        if arguments[0] == "up":
            screen.expect("loading")
        elif arguments == ("chat",):
            screen.expect("/help shows the commands")
            screen.expect("> ")
            screen.type("Hi\r")
        if arguments[0] != "up":
            screen.expect("thinking")
        screen.close()
        assert screen.process.wait(_PATIENCE_S) in (0, 128 + signal.SIGHUP)
    assert not (home / "errors.log").exists()


@pytest.mark.usefixtures("node")
def test_a_chat_with_a_model_that_nobody_serves_does_not_begin() -> None:
    with terminal("chat", "--model", "llama-70b") as screen:
        screen.expect("error:")
        screen.expect("no node serves a model named 'llama-70b'")
        assert screen.process.wait(_PATIENCE_S) == 1


@pytest.mark.usefixtures("node")
def test_a_terminal_on_which_nothing_can_be_drawn_shows_prompts_and_plain_answers() -> None:
    with terminal("chat", kind="dumb") as screen:
        for question in ("Hi", "Go on"):
            screen.expect("> ")
            screen.type(f"{question}\r")
            screen.expect("Hello.\r\n")
        screen.expect("> ")
        screen.type("\x04")
        assert screen.process.wait(_PATIENCE_S) == 0


@pytest.mark.usefixtures("node")
def test_the_watched_status_leaves_at_q() -> None:
    with terminal("status", "--watch") as screen:
        screen.expect("12D3…UERE")
        screen.expect("q leaves")
        screen.type("q")
        assert screen.process.wait(_PATIENCE_S) == 0


def test_errors_break_between_words() -> None:
    with terminal("invite", "--expires", "5x") as screen:
        screen.expect("is no duration: write 90s, 30m, 24h\r\nor 7d")
        assert screen.process.wait(_PATIENCE_S) == 2


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("no_color", "begins"), [("", "\x1b[31m\x1b[1m"), ("1", "\x1b[1m")])
def test_errors_have_a_colour_if_any_has(
    monkeypatch: pytest.MonkeyPatch, no_color: str, begins: str
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    with terminal("status") as screen:
        assert screen.process.wait(_PATIENCE_S) == 1
        assert screen.rest().startswith(f"{begins}error:\x1b[0m no node runs")


@pytest.mark.usefixtures("node")
def test_ask_on_a_terminal_ends_with_a_footer() -> None:
    with terminal("ask", "Why?") as screen:
        screen.expect("Hello.")
        screen.expect("served by bea")
        assert screen.process.wait(_PATIENCE_S) == 0


@pytest.mark.usefixtures("node")
def test_ask_ends_at_ctrl_c_without_the_word_that_it_held_back(backend: FakeBackend) -> None:
    hold = Hold()
    backend.scripts.append((Text("Half an ans"), hold))
    with terminal("ask", "Why?") as screen:
        screen.expect("Half an")
        assert hold.reached.wait(_PATIENCE_S)
        screen.type("\x03")
        assert hold.cancelled.wait(_PATIENCE_S)
        assert screen.process.wait(_PATIENCE_S) == 130
        assert "ans" not in screen.rest()


@pytest.mark.usefixtures("node")
def test_a_qr_code_is_drawn_where_it_fits() -> None:
    with terminal("invite", "--qr", columns=21) as screen:
        screen.expect("█\r\n")
        assert screen.process.wait(_PATIENCE_S) == 0
    with terminal("invite", "--qr", columns=20) as screen:
        screen.expect("The QR code needs 21 columns, and this terminal has 20")
        assert screen.process.wait(_PATIENCE_S) == 0
        assert "█" not in screen.rest()
