"""Without a node, and when things go wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.shell_completion import ShellComplete

from cli.main import hearth
from models.store.store import ModelStore
from overlay.home.home import Home
from overlay.http.backend import Text
from tests.cli.conftest import Run
from tests.cli.fake_node import ANSWERED, FakeBackend


def test_commands_that_need_a_node_say_so(run: Run, home: Path) -> None:
    for command in (["status"], ["invite"], ["status", "--watch"]):
        result = run(*command)
        assert result.exit_code == 1
        assert "hearth up" in result.stderr
    result = run("status", "--json")
    assert json.loads(result.stdout)["error"]["code"] == "node-not-running"
    assert not home.exists()


def test_a_typo_in_a_token_leaves_no_home_behind(run: Run, home: Path) -> None:
    result = run("join", "hearth1nonsense", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["code"] == "token-malformed"
    assert not home.exists()


def test_only_known_models_can_be_pulled(run: Run) -> None:
    result = run("models", "pull", "llama-70b")
    assert result.exit_code == 1
    assert "demo" in result.stderr
    assert "--model /path/to/model.gguf" in result.stderr
    told = json.loads(run("models", "pull", "llama-70b", "--json").stdout)
    assert told["error"]["code"] == "model-not-found"


def test_where_a_model_was_put(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = SimpleNamespace(name="Pocket", path=tmp_path / "pocket.gguf")
    monkeypatch.setattr(ModelStore, "ensure", lambda *_: there)
    told = json.loads(run("models", "pull", "demo", "--json").stdout)
    assert told == {"name": "Pocket", "path": str(there.path)}


@pytest.mark.parametrize("arguments", [("--home", "", "up"), ("up", "--home", "")])
def test_an_empty_home_is_not_the_current_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, "--model", "none", "--listen", "nowhere")
    assert result.exit_code == 2
    assert "'' is no folder" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_usage_errors(run: Run) -> None:
    for arguments in (["nonsense"], ["ask", "--max-tokens", "0"], ["completion", "tcsh"]):
        assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("group", [(), ("models",)])
def test_a_group_without_a_command_shows_its_help_once(run: Run, group: tuple[str, ...]) -> None:
    result = run(*group)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Usage: {' '.join(('hearth', *group))} ")
    assert result.stderr.count("Usage:") == 1


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_a_bug_becomes_one_sentence_and_a_log(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Home, "runtime", failing(ZeroDivisionError("by\nzero")))
    result = run("status")
    log = home / "errors.log"
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: this is a bug in Hearth (ZeroDivisionError: by zero); details are in {log}\n"
    )
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_bug_where_no_log_can_be_written(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "errors.log").mkdir(parents=True)
    monkeypatch.setattr(Home, "runtime", failing(ZeroDivisionError()))
    result = run("status", "--json")
    message = json.loads(result.stdout)["error"]["message"]
    told = re.fullmatch(r".* details are in (.+)", message)
    assert told is not None
    log = Path(told[1])
    assert "ZeroDivisionError" in log.read_text()
    log.unlink()


def test_ctrl_c_ends_a_command_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Home, "runtime", failing(KeyboardInterrupt()))
    result = run("status")
    assert (result.exit_code, result.output) == (130, "")


def test_ctrl_c_while_options_are_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.config.parse_size", failing(KeyboardInterrupt()))
    result = run("up", "--ram-cache", "2GB")
    assert (result.exit_code, result.output) == (130, "")


def test_ctrl_c_while_the_commands_are_imported() -> None:
    code = """
import sys
class Pressed:
    def find_spec(self, name, *_):
        if name == "click": raise KeyboardInterrupt
sys.meta_path.insert(0, Pressed())
from cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


def test_a_reader_that_has_seen_enough_is_no_error(home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "cli", "models", "list"]
    with open(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    "arguments",
    ["ask Hi", "ask Hi --json", "status", "status --json", "explain 0 --json", "--help", "up -h"],
)
def test_output_into_a_full_disk_says_so(home: Path, arguments: str) -> None:
    command = [sys.executable, "-m", "cli", *arguments.split()]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b"error: the output cannot be written: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.usefixtures("node")
def test_a_terminal_that_is_not_of_utf_8_is_no_error(backend: FakeBackend) -> None:
    backend.scripts.append((Text("caf\xe9 \u65e5"), ANSWERED))
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    for arguments, shown in (("ask Hi", b"caf\xe9 ?"), ("status", b"laptop (12D3?")):
        command = [sys.executable, "-m", "cli", *arguments.split()]
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        assert shown in done.stdout


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(home: Path, closed: str) -> None:
    command = f"{sys.executable} -m cli ask Hi {closed}"
    assert subprocess.run(["sh", "-c", command]).returncode == 0
    assert not (home / "errors.log").exists()


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(run: Run, flag: str) -> None:
    assert "hearth join TOKEN" in run(flag).stdout
    assert "--max-tokens" in run("ask", flag).stdout


def test_version(run: Run) -> None:
    assert run("--version").stdout.startswith("hearth ")


def test_startup_loads_nothing_heavy() -> None:
    code = "import sys, cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "httpx", "rich", "prompt_toolkit", "numpy", "overlay.node", "llama_cpp"}
    assert heavy.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("command", ["chat", "ask", "up"])
def test_the_path_of_a_model_is_completed(command: str) -> None:
    shell = ShellComplete(hearth, {}, "hearth", "_HEARTH_COMPLETE")
    [found] = shell.get_completions([command, "--model"], "~/mod")
    assert (found.value, found.type) == ("~/mod", "file")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_say_how_to_install_them(run: Run, shell: str) -> None:
    script = run("completion", shell).stdout
    assert "_HEARTH_COMPLETE" in script
    assert f"#   hearth completion {shell} > " in script
