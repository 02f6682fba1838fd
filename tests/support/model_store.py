"""The model store that tests and benchmarks share, so that the demo model is fetched once."""

from __future__ import annotations

from models.store.store import ModelStore
from overlay.config import model_store_path


def shared_store() -> ModelStore:
    """The user's own store, or the one that ``HEARTH_MODELS`` names."""
    return ModelStore(model_store_path())
