"""``hearth models``, against a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.models.store.wheels import write_gguf
from tests.support.hub import Hub, serving


@pytest.fixture
def hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    content = write_gguf(tmp_path / "made.gguf").read_bytes()
    files = {"Pocket-Q4_K_M.gguf": content, "Pocket-Q8_0.gguf": content}
    with serving(Hub(repos={"ann/Pocket-GGUF": files})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.mark.usefixtures("hub")
def test_a_pulled_model_is_listed_and_how_to_talk_to_it_is_said(run: Run) -> None:
    pulled = run("models", "pull", "ann/Pocket-GGUF")
    assert pulled.exit_code == 0
    assert pulled.stdout.splitlines()[-1] == "To talk to it: hearth chat --model Pocket-Q4_K_M"
    assert "fetching ann/Pocket-GGUF (" in pulled.stderr
    (listed,) = json.loads(run("models", "list", "--json").stdout)["files"]
    assert listed["name"] == "Pocket"
    again = run("models", "pull", "ann/Pocket-GGUF", "--json")
    assert json.loads(again.stdout) == {"name": "Pocket", "path": listed["path"]}
    assert again.stderr == ""


@pytest.mark.usefixtures("hub")
def test_two_quantisations_of_a_model_are_told_apart(run: Run) -> None:
    run("models", "pull", "ann/Pocket-GGUF")
    assert "Pocket-Q4_K_M" not in run("models", "list").stdout
    run("models", "pull", "ann/Pocket-GGUF:Q8_0")
    text = run("models", "list").stdout
    assert "Pocket-Q4_K_M" in text
    assert "Pocket-Q8_0" in text


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("demo2", "model-not-found", "OWNER/REPO:QUANTISATION"),
        ("ann/other", "model-not-found", "no model 'ann/other'"),
        ("ann/Pocket-GGUF:Q2_K", "model-not-found", ":Q4_K_M (0.0 GB), :Q8_0"),
    ],
)
def test_what_cannot_be_pulled(run: Run, name: str, code: str, words: str) -> None:
    failed = run("models", "pull", name, "--json")
    assert failed.exit_code == 1
    error = json.loads(failed.stdout)["error"]
    assert error["code"] == code
    assert words in error["message"]


def test_a_hubs_model_that_was_not_pulled_is_no_file(run: Run) -> None:
    failed = run("ask", "hi", "--model", "ann/Pocket-GGUF:Q8_0")
    assert failed.exit_code == 1
    assert "hearth models pull ann/Pocket-GGUF:Q8_0" in failed.stderr
