"""The commands against a node, as a script would use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.engine import Message
from overlay.errors import EngineFailed, ModelNotFound
from overlay.http.backend import Route, Text
from tests.cli.conftest import Run
from tests.cli.fake_node import (
    ANSWERED,
    EXPLANATION,
    REQUEST_ID,
    STATUS,
    FakeBackend,
    FakeNode,
    Step,
)
from tests.support.recorder import FRIEND_ID

pytestmark = pytest.mark.usefixtures("node")


def test_ask_streams_plain_text(run: Run, backend: FakeBackend) -> None:
    result = run("ask", "Why?", "--system", "Be brief.", "--temperature", "0", "--max-tokens", "9")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello.\n", "")
    [ask] = backend.asks
    assert ask.prompt == (Message("system", "Be brief."), Message("user", "Why?"))
    assert (ask.sampling.temperature, ask.sampling.max_tokens) == (0, 9)
    assert (ask.model, ask.route) == (backend.listings[0].name, Route.MESH)


def test_ask_takes_what_is_piped_in(run: Run, backend: FakeBackend) -> None:
    run("ask", "Explain:", "--model", "qwen3-1.7b", "--route", "local", input="some code\n")
    run("ask", input="only this\n")
    asked = [ask.prompt for ask in backend.asks]
    assert asked == [
        (Message("user", "Explain:\n\nsome code\n"),),
        (Message("user", "only this\n"),),
    ]
    assert (backend.asks[0].model, backend.asks[0].route) == ("qwen3-1.7b", Route.LOCAL)


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_what_is_no_unicode_is_asked_all_the_same(
    run: Run, backend: FakeBackend, command: str
) -> None:
    # Python has odd bytes of the command line as lone surrogates.
    result = run(command, "--system", "\udcff?", input="caf\u00e9".encode("latin-1"))
    assert result.exit_code == 0, result.stderr
    assert backend.asks[0].prompt == (Message("system", "??"), Message("user", "caf\ufffd"))


def test_ask_json(run: Run) -> None:
    result = run("ask", "Why?", "--json")
    fields = json.loads(result.stdout)
    assert list(fields) == ["answer", "model", "usage", "hearth"]
    assert fields["answer"] == "Hello."
    assert fields["model"] == "SmolLM2-135M-Instruct"
    assert fields["usage"]["prompt_tokens_details"] == {"cached_tokens": 612}
    assert fields["hearth"]["served_by"] == FRIEND_ID


def test_ask_without_a_question_is_a_usage_error(run: Run) -> None:
    result = run("ask", input="  \n")
    assert result.exit_code == 2
    assert "QUESTION" in result.stderr


@pytest.mark.parametrize("said_before", [(), (Text("Hel"),)])
def test_a_failed_answer(run: Run, backend: FakeBackend, said_before: tuple[Text, ...]) -> None:
    script: list[Step] = [*said_before, EngineFailed("llama.cpp ran out of memory")]
    backend.scripts += [script, script]
    result = run("ask", "Why?")
    assert result.exit_code == 1
    assert result.stderr == "error: llama.cpp ran out of memory\n"
    result = run("ask", "Why?", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "error": {"code": "engine-failed", "message": "llama.cpp ran out of memory"}
    }


def test_a_running_node_cannot_be_given_a_file(run: Run, home: Path) -> None:
    result = run("ask", "Why?", "--model", "/somewhere/big.gguf")
    assert result.exit_code == 1
    assert "--home" in result.stderr
    assert "/somewhere/big.gguf" in result.stderr


def test_status(run: Run) -> None:
    assert json.loads(run("status", "--json").stdout) == STATUS
    lines = run("status").stdout.splitlines()
    bea, carl = lines[-2:]
    assert bea.split() == [
        *("bea", "12D3…UERE", "UP", "3.2", "ms", "SmolLM2-135M-Instruct,", "qwen3-1.7b"),
        *("12,288", "dialled"),
    ]
    assert carl.split()[:3] == ["carl", "12D3…8bHX", "DOWN"]
    assert "72% of 2,000 prompt tokens were cached" in "\n".join(lines)


def test_status_of_a_lone_node_says_how_to_invite(run: Run, backend: FakeBackend) -> None:
    backend.state = {**STATUS, "peers": []}
    assert "hearth invite" in run("status").stdout


def test_explain_the_latest_or_one_by_its_id(run: Run, backend: FakeBackend) -> None:
    for arguments in ((), ("5f0c7a1e",), (f"chatcmpl-{REQUEST_ID}",)):
        assert json.loads(run("explain", *arguments, "--json").stdout) == EXPLANATION
    assert backend.explained == [None, "5f0c7a1e", REQUEST_ID]
    told = run("explain").stdout
    assert REQUEST_ID in told
    assert "carl was chosen" in told


def test_explain_says_what_is_wrong_with_an_id(run: Run) -> None:
    for arguments, message in (
        (("ffff",), "this node knows no request ffff"),
        (("../status",), "is no request's id"),
        (("caf\udce9",), "'caf?' is no request's id"),  # an odd byte of the command line
    ):
        result = run("explain", *arguments)
        assert result.exit_code == 1
        assert message in result.stderr
    assert run("explain", "5f0c", "--list").exit_code == 2


def test_explain_lists_what_it_knows(run: Run) -> None:
    listed = json.loads(run("explain", "--list", "--json").stdout)
    assert [each["request_id"] for each in listed] == [REQUEST_ID, "1" * 32]
    first, second = run("explain", "--list").stdout.splitlines()[1:]
    assert first.split()[:4] == ["5f0c7a1e", "12.0", "s", "you"]
    assert second.split()[:4] == ["11111111", "12.0", "s", "12D3…8bHX"]


def test_invite(run: Run, backend: FakeBackend) -> None:
    result = run("invite", "--uses", "3", "--expires", "7d", "--label", "bea")
    assert result.stdout == "hearth1abc\n"
    assert "hearth join" in result.stderr
    assert backend.orders == [(604_800, 3, "bea", True)]
    made = json.loads(run("invite", "--json").stdout)
    assert (made["token"], made["uses"]) == ("hearth1abc", 1)
    assert backend.orders[1] == (86_400, 1, "", True)


def test_invite_draws_a_qr_code(run: Run) -> None:
    token, *drawing = run("invite", "--qr").stdout.splitlines()
    assert token == "hearth1abc"
    assert len(drawing) > 10


@pytest.mark.parametrize("expires", ["0h", "24", "1.5h", "soon", "31d"])
def test_an_odd_expiry_is_a_usage_error(run: Run, backend: FakeBackend, expires: str) -> None:
    assert run("invite", "--expires", expires).exit_code == 2
    assert backend.orders == []


def test_join_through_the_running_node(run: Run, backend: FakeBackend) -> None:
    result = run("join", " hearth1xyz ")
    assert result.stdout == "Joined the mesh of bea (12D3…UERE). Next: hearth chat\n"
    assert backend.joined == ["hearth1xyz"]
    assert json.loads(run("join", "hearth1xyz", "--json").stdout)["inviter"] == FRIEND_ID
    result = run("join", "nonsense")
    assert result.exit_code == 1
    assert result.stderr == "error: this is no join token: one begins with hearth1\n"


def test_a_running_node_keeps_its_name(run: Run, backend: FakeBackend) -> None:
    result = run("join", "hearth1xyz", "--name", "another")
    assert (result.exit_code, backend.joined) == (1, [])
    assert "this node runs, as laptop: leave --name out" in result.stderr
    assert run("join", "hearth1xyz", "--name", "laptop").exit_code == 0


def test_what_to_do_next_is_done_in_the_home_that_was_given(run: Run, home: Path) -> None:
    result = run("join", "hearth1xyz", "--home", str(home))
    assert result.stdout.endswith(f"Next: hearth chat --home {home}\n")
    result = run("pause", "--home", str(home))
    assert result.stdout.endswith(f"again: hearth resume --home {home}\n")


def test_on_a_terminal_joining_says_what_it_waits_for(run: Run) -> None:
    result = run("join", "hearth1xyz", env={"FORCE_COLOR": "1", "TERM": "xterm"})
    assert "asking the inviting node" in result.stderr
    assert "asking" not in run("join", "hearth1xyz").stderr


def test_pause_and_resume(run: Run, backend: FakeBackend) -> None:
    result = run("pause")
    assert result.stdout.startswith("Paused:")
    assert "2 requests under way" in result.stdout
    assert "under way" not in run("pause", "--now").stdout
    assert backend.pauses == [False, True]
    assert json.loads(run("pause", "--json").stdout)["paused"] is True
    assert run("resume").stdout == "Friends' requests are taken again.\n"
    assert json.loads(run("resume", "--json").stdout)["paused"] is False
    assert backend.pauses == []


def test_models_of_the_mesh(run: Run) -> None:
    listed = json.loads(run("models", "list", "--json").stdout)
    assert [model["id"] for model in listed["served"]] == ["SmolLM2-135M-Instruct", "qwen3-1.7b"]
    assert listed["files"] == []
    text = run("models", "list").stdout
    assert "SmolLM2-135M-Instruct served here" in text
    assert "qwen3-1.7b served by a friend" in text


def test_chat_without_a_terminal_answers_line_by_line(run: Run, backend: FakeBackend) -> None:
    backend.scripts += [
        (Text("One."), ANSWERED),
        (ModelNotFound("nobody serves x"),),
        (Text("Two."), ANSWERED),
    ]
    result = run("chat", "--system", "S", input="a\n\nb\n/c\n")
    assert result.exit_code == 1
    assert result.stdout == "One.\nTwo.\n"
    assert result.stderr == "error: nobody serves x\n"
    assert backend.asks[2].prompt == (
        Message("system", "S"),
        Message("user", "a"),
        Message("assistant", "One."),
        Message("user", "/c"),
    )


def test_home_may_stand_before_or_after_the_command(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEARTH_HOME", str(tmp_path / "elsewhere"))
    assert run("status").exit_code == 1
    assert run("status", "--home", str(home)).exit_code == 0
    assert run("--home", str(home), "status").exit_code == 0
    assert run("--home", str(home), "models", "list").exit_code == 0


def test_a_node_that_went_away(run: Run, node: FakeNode) -> None:
    node.close()
    result = run("status")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: no node answers at {node.api_url}")
