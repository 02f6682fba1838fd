import resource
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

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
