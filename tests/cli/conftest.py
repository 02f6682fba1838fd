"""A home whose node is the fake one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import hearth
from overlay.home.home import Home
from tests.cli.fake_node import ADMIN_TOKEN, FakeBackend, FakeNode

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where no node runs; the environment points to it."""
    path = tmp_path / "home"
    monkeypatch.setenv("HEARTH_HOME", str(path))
    monkeypatch.setenv("HEARTH_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("COLUMNS", "100")
    return path


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def node(home: Path, backend: FakeBackend) -> Iterator[FakeNode]:
    """A node that runs in ``home``."""
    with FakeNode(backend) as fake:
        claimed = Home(home)
        claimed.lock()
        claimed.write_runtime(api=fake.api_url, admin_token=ADMIN_TOKEN)
        yield fake
        claimed.unlock()


@pytest.fixture
def run(home: Path) -> Run:
    """Run the command line: ``run("ask", "hi", input="…")``."""

    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(hearth, arguments, prog_name="hearth", **options)

    return invoke
