"""The model store that tests and benchmarks share, so that the demo model is fetched once."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from models.store.store import ModelStore


def shared_store() -> ModelStore:
    """The user's own store, or the one that ``HEARTH_MODELS`` names."""
    root = os.environ.get("HEARTH_MODELS")
    return ModelStore(Path(root) if root else platformdirs.user_data_path("hearth") / "models")
