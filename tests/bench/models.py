"""The models that the benchmarks run: the demo model, and one that costs what 0.5 B costs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import platformdirs

from tests.bench import half_billion_gguf
from tests.support.model_store import shared_store


def demo() -> Path:
    """SmolLM2-135M, fetched if the store lacks it."""
    return shared_store().ensure("demo", lambda done, total: None).path


def half_billion() -> Path:
    """The random 0.5 B model, written on first use (8 s, 0.5 GB) to the user's cache folder."""
    assert half_billion_gguf.__file__ is not None
    # Whoever changes the script measures with the changed model.
    source = hashlib.blake2b(Path(half_billion_gguf.__file__).read_bytes(), digest_size=4)
    folder = platformdirs.user_cache_path("hearth") / "bench"
    path = folder / f"half-billion-{source.hexdigest()}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("half-billion-*"):
            old.unlink()
        partial = path.with_suffix(".partial")
        half_billion_gguf.write(partial, demo())
        partial.replace(path)
    return path
