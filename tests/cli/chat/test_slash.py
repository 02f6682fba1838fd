import pytest

from cli.chat.slash import COMMANDS, Call, complete, parse_line


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("hello /new", None),
        (" /usr/bin is what?", None),
        ("/NEW", Call("new", "")),
        ("/system  Be brief. ", Call("system", "Be brief.")),
        ("/", Call("", "")),
        ("/save a file.md", Call("save", "a file.md")),
        ("/system\nBe brief.\nBe kind.\n", Call("system", "Be brief.\nBe kind.")),
    ],
)
def test_lines(line: str, call: Call | None) -> None:
    assert parse_line(line) == call


def test_completion_of_names() -> None:
    assert [line for line, _ in complete("/s", ())] == ["/system ", "/status", "/save "]
    assert len(complete("/", ())) == len(COMMANDS)
    assert complete("say /", ()) == []


def test_completion_of_values() -> None:
    assert complete("/model q", ("demo", "qwen3")) == [("/model qwen3", "")]
    assert [line for line, _ in complete("/route ", ())] == ["/route local", "/route mesh"]
    assert complete("/save ", ("demo",)) == []
