import io
import resource
import sys
import threading
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.output.plain_text import PlainTextOutput

from cli.chat.prompt import open_prompt


def test_a_history_that_cannot_be_written_is_no_trouble(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with create_pipe_input() as keys:
        read = open_prompt(tmp_path / "history", lambda: "", lambda: (), keys, DummyOutput())
        # The last Enter ends prompt_toolkit's wait for one, under the traceback that it may show.
        keys.send_text("hello\r\r")
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
        try:
            assert read() == "hello"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Exception" not in "".join(capsys.readouterr())


def test_what_the_node_warns_of_does_not_spoil_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = threading.Event()

    def toolbar() -> str:
        drawn.set()
        return ""

    terminal = io.StringIO()
    with (
        create_pipe_input() as keys,
        create_app_session(input=keys, output=PlainTextOutput(terminal)),
    ):
        read = open_prompt(tmp_path / "history", toolbar, lambda: ())

        def warn() -> None:
            drawn.wait()
            print("a peer is a bother", file=sys.stderr)  # as logging does by default
            keys.send_text("hello\r")

        warning = threading.Thread(target=warn)
        warning.start()
        assert read() == "hello"
        warning.join()
    assert capsys.readouterr().err == "", "amid the line"
    assert "a peer is a bother\n" in terminal.getvalue().replace("\r", "")
