"""Commands that start a node of their own, with a tiny model."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from cli.client import NodeClient
from cli.progress import DownloadProgress, StartAborted, StepProgress
from cli.session import _await_model, running_client
from models.store.names import model_name
from overlay.config import load_config
from overlay.errors import Unreachable
from overlay.home.home import Home
from tests.cli.conftest import Run
from tests.cli.fake_node import ADMIN_TOKEN, FakeBackend, FakeNode


@pytest.fixture(autouse=True)
def free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_LISTEN", "127.0.0.1:0")
    monkeypatch.setenv("HEARTH_API", "127.0.0.1:0")


def test_ask_starts_a_node_and_ends_it(run: Run, home: Path, tiny_model: Path) -> None:
    question = ("ask", "Hi", "--model", str(tiny_model), "--max-tokens", "3", "--temperature", "0")
    first, second = run(*question, "--json"), run(*question)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    answer = json.loads(first.stdout)
    assert answer["model"] == model_name(tiny_model)
    assert answer["usage"]["completion_tokens"] <= 3
    assert answer["hearth"]["route"] == "local"
    assert second.stdout == answer["answer"].removesuffix("\n") + "\n"
    assert not (home / "runtime.json").exists()


@pytest.mark.parametrize("name", ["Pocket", "pocket", "Pocket-Q8_0"])
def test_a_model_of_the_store_is_asked_by_any_of_its_names(
    run: Run, tmp_path: Path, tiny_model: Path, name: str
) -> None:
    (tmp_path / "models").mkdir()
    shutil.copy(tiny_model, tmp_path / "models" / "Pocket-Q8_0.gguf")
    result = run("ask", "Hi", "--model", name, "--max-tokens", "1", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == "Pocket"


def test_a_node_without_a_model_and_without_friends(run: Run) -> None:
    result = run("ask", "Hi", "--model", "none")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no ")
    result = run("chat", "--model", "llama-70b", input="Hi\n")
    assert result.exit_code == 1
    assert "llama-70b" in result.stderr


def test_a_friend_that_has_no_link_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.session._POLL_S", 0.0)
    client = Mock(spec=NodeClient)
    client.status.return_value = {"peers": [], "absent": [{"name": "bob"}]}
    client.models.side_effect = [[], [], [{"id": "llama"}]]
    _await_model(client, "llama")
    assert client.models.call_count == 3


def test_who_has_no_friends_is_not_kept_waiting() -> None:
    client = Mock(spec=NodeClient)
    client.status.return_value = {"peers": [], "absent": []}
    client.models.return_value = []
    _await_model(client, "llama")
    client.models.assert_called_once_with()


def test_a_node_that_comes_back_on_another_port_is_found_again(home: Path) -> None:
    claimed, config = Home(home), load_config(home)
    claimed.lock()
    with FakeNode(FakeBackend()) as first:
        claimed.write_runtime(api=first.api_url, admin_token="old")
        client = running_client(config)
        assert client.status()["name"] == "laptop"
    with client, FakeNode(FakeBackend()) as second:
        claimed.write_runtime(api=second.api_url, admin_token=ADMIN_TOKEN)
        with pytest.raises(Unreachable, match=first.api_url):
            client.status()
        assert client.api_url == second.api_url
        assert client.invites(), "the admin token is the new one"
    claimed.unlock()


@pytest.mark.parametrize("command", ["ask Hi", "chat", "join TOKEN", "leave --yes", "status"])
def test_a_node_that_still_starts_is_waited_for(home: Path, run: Run, command: str) -> None:
    claimed = Home(home)
    claimed.lock()
    result = run(*command.split())
    assert result.stderr == f"error: the node in {home} is still starting: try again shortly\n"
    assert run("models", "list").exit_code == 0
    claimed.unlock()


def test_a_model_file_that_is_none(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "poem.gguf"
    path.write_text("Roses are red")
    result = run("ask", "Hi", "--model", str(path))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"error: {path} is no GGUF model file"
    assert path.read_text() == "Roses are red"


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_steps_in_a_pipe_are_one_line_each() -> None:
    console = Console(file=io.StringIO(), width=80)
    with StepProgress(console) as progress:
        for step, fraction in (("loading a", 0.0), ("loading a", 1.0), ("loading b", 0.5)):
            progress(step, fraction)
    assert written(console) == "loading a\nloading b\n"


def test_steps_on_a_terminal_are_bars() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with StepProgress(console) as progress:
        progress("loading a", 0.25)
        progress.close()
    assert "loading a" in written(console)
    assert "25%" in written(console)


def test_nobody_reports_to_an_aborted_start() -> None:
    with StepProgress(Console(file=io.StringIO())) as progress:
        progress("loading", 0.0)
    with pytest.raises(StartAborted):
        progress("loading", 1.0)


def test_a_download_shows_bytes() -> None:
    console = Console(file=io.StringIO(), width=80)
    with DownloadProgress(console, "demo") as progress:
        progress(0, 98_362_432)
        progress(98_362_432, 98_362_432)
    assert written(console) == "fetching demo (98.4 MB)\n"
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with DownloadProgress(console, "demo") as progress:
        progress(98_362_432, 98_362_432)
    assert "98.4/98.4 MB" in written(console)
