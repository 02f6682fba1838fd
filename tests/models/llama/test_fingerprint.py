"""Whose a saved state is: that of exactly one model file and its settings."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from models.llama.fingerprint import file_identity, fingerprint, model_digest
from models.llama.loaded_model import LoadedModel
from models.store.names import parts_of
from tests.support.tiny_gguf import write_tiny_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def digest_of(model: Path, cache: Path) -> bytes | None:
    return model_digest(model, cache, file_identity(model))


def test_the_digest_is_that_of_the_whole_file(model: Path, tmp_path: Path) -> None:
    expected = hashlib.sha256(b"weights").digest()
    cache = tmp_path / "cache"
    assert digest_of(model, cache) == expected
    assert digest_of(model, cache) == expected, "remembered"


def test_an_unchanged_file_is_not_hashed_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digest_of(model, tmp_path / "cache")
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert digest_of(model, tmp_path / "cache") == expected


def test_a_file_changed_behind_its_date_is_noticed(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = model.stat()
    digest_of(model, cache)
    model.write_bytes(b"WEIGHTS")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest_of(model, cache) == hashlib.sha256(b"WEIGHTS").digest()


def test_a_damaged_note_is_worth_nothing(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = digest_of(model, cache)
    (note,) = cache.iterdir()
    for damage in (note.read_bytes()[:-2], b"\xff", b""):
        note.write_bytes(damage)
        assert digest_of(model, cache) == expected


def test_no_place_for_a_note(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert digest_of(model, tmp_path / "file") == hashlib.sha256(b"weights").digest()


def test_a_model_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digest_of(tmp_path / "gone.gguf", tmp_path / "cache")


def test_a_model_that_is_replaced_while_it_is_loaded_has_no_digest(
    tiny_model: Path, tmp_path: Path
) -> None:
    """What it computes would be taken for the work of other weights."""
    path, cache = tmp_path / "tiny.gguf", tmp_path / "cache"
    shutil.copy(tiny_model, path)
    assert LoadedModel(path, lambda _: None).digest(cache) == digest_of(path, cache)

    def replace(_: float) -> None:
        shutil.copy(tiny_model, tmp_path / "new")
        (tmp_path / "new").replace(path)

    assert LoadedModel(path, replace).digest(cache) is None


def test_all_files_of_a_model_count(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tensors_per_file=8)
    parts = parts_of(path)
    assert len(parts) > 1
    cache = tmp_path / "cache"
    digests = [hashlib.sha256(part.read_bytes()).digest() for part in parts]
    before = LoadedModel(path, lambda _: None).digest(cache)
    assert before == hashlib.sha256(b"".join(digests)).digest()

    content = bytearray(parts[-1].read_bytes())
    content[-1] ^= 1
    parts[-1].write_bytes(content)
    loaded = LoadedModel(path, lambda _: None)
    assert loaded.digest(cache) not in (None, before)
    parts[-1].write_bytes(b"replaced")
    assert loaded.digest(cache) is None


def test_model_and_settings_both_count() -> None:
    prints = {
        fingerprint(model, text) for model in (b"a" * 32, b"b" * 32) for text in ("f16", "q8")
    }
    assert len(prints) == 4
    assert {len(each) for each in prints} == {16}
