"""Names, paths and what the store makes of them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from models.store.catalogue import DEMO, known
from models.store.gguf_file import check_gguf
from models.store.names import model_name, parts_of
from models.store.store import ModelStore
from overlay.errors import ConfigError, ModelFileInvalid, ModelNotFound
from overlay.limits import NAME_CHARS_MAX
from tests.models.store.wheels import write_gguf
from tests.support.tiny_gguf import write_tiny_gguf


def ignore(done: int, total: int) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    (tmp_path / "models").mkdir()
    return ModelStore(tmp_path / "models")


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("Qwen3-1.7B-Q4_K_M.gguf", "Qwen3-1.7B"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("Llama-3.2-1B-Instruct-UD-IQ2_XXS.gguf", "Llama-3.2-1B-Instruct"),
        ("mistral_q8_0.GGUF", "mistral"),
        ("gemma-3-4b-it-BF16.gguf", "gemma-3-4b-it"),
        ("qwen2.5-0.5b-instruct-fp16.gguf", "qwen2.5-0.5b-instruct"),
        ("gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b"),
        ("phi-Q6_K.gguf", "phi"),
        ("plain.gguf", "plain"),
        ("Q8_0.gguf", "Q8_0"),
        ("Qwen2.5-7B-Instruct-Q4_K_M-00001-of-00002.gguf", "Qwen2.5-7B-Instruct"),
        ("-00001-of-00002.gguf", "-00001-of-00002"),
        ("line\nbreak.gguf", "line_break"),
        ("x" * 100 + ".gguf", "x" * NAME_CHARS_MAX),
    ],
)
def test_a_models_name_is_its_files_without_the_quantisation(file_name: str, name: str) -> None:
    assert model_name(Path(file_name)) == name


def test_the_demo_model_answers_to_its_aliases_in_any_case() -> None:
    for name in ("demo", "DEMO", "SmolLM2-135M-Instruct", "smollm2-135m-instruct"):
        assert known(name) is DEMO
    assert known("smollm2") is None
    assert model_name(Path(DEMO.file_name)) == DEMO.name


def test_a_path_is_used_in_place(store: ModelStore, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "My-Model-Q8_0.gguf")
    for found in (store.resolve(str(path)), store.ensure(str(path), ignore)):
        assert (found.name, found.path, found.aliases) == ("My-Model", path, ())
        assert found.info.quantisation == "Q8_0"
    assert store.list() == []


def test_a_path_may_have_any_ending(store: ModelStore, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "blob-of-another-program")
    assert store.resolve(str(path)).path == path


def test_a_path_to_nothing(store: ModelStore) -> None:
    for name in ("/nowhere/model.gguf", "model.gguf", "~nobody-of-that-name/model.gguf", "a/b/c"):
        with pytest.raises(ModelFileInvalid, match="there is no model file"):
            store.resolve(name)
    with pytest.raises(ModelFileInvalid, match="fetch it first: hearth models pull owner/repo:Q4"):
        store.resolve("owner/repo:Q4")


def test_the_store_finds_its_files_by_name_and_stem(store: ModelStore) -> None:
    path = write_gguf(store.root / "Pocket-Q8_0.gguf")
    for name in ("Pocket", "pocket", "Pocket-Q8_0"):
        assert store.resolve(name).path == path
    assert [model.name for model in store.list()] == ["Pocket"]


def test_a_file_may_be_written_in_capitals(store: ModelStore) -> None:
    path = write_gguf(store.root / "POCKET-Q8_0.GGUF")
    assert store.resolve("pocket").path == path
    assert [model.path for model in store.list()] == [path]


@pytest.mark.parametrize("number", ["00001-of-00000", "00003-of-00002", "00000-of-00002"])
def test_a_part_that_no_model_can_have_is_a_model_itself(store: ModelStore, number: str) -> None:
    path = write_gguf(store.root / f"pocket-{number}.gguf")
    assert [(model.name, model.path) for model in store.list()] == [(path.stem, path)]


def test_an_unknown_name(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match="no model 'gpt-9' here"):
        store.ensure("gpt-9", ignore)


def test_the_demo_model_has_to_be_fetched_first(store: ModelStore) -> None:
    with pytest.raises(ModelFileInvalid, match="hearth models pull demo"):
        store.resolve("demo")


def test_another_file_under_the_demo_models_name_is_refused(store: ModelStore) -> None:
    write_gguf(store.root / DEMO.file_name)
    with pytest.raises(ModelFileInvalid, match="truncated or altered"):
        store.resolve("demo")


def test_a_damaged_file_is_logged_and_left_out(
    store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    write_gguf(store.root / "good.gguf")
    (store.root / "bad.gguf").write_bytes(b"GGUF?")
    for other in ("README.md", ".good.gguf.0123456789abcdef.part"):
        (store.root / other).write_bytes(b"no model")
    with caplog.at_level(logging.WARNING):
        assert [model.name for model in store.list()] == ["good"]
    [warning] = caplog.messages
    assert "bad.gguf" in warning


def test_a_model_in_several_files_is_one(store: ModelStore) -> None:
    path = write_tiny_gguf(store.root / "Tiny-Q8_0.gguf", tensors_per_file=8)
    parts = parts_of(path)
    assert path == parts[0]
    assert sorted(store.root.iterdir()) == [*parts]
    (listed,) = store.list()
    whole = write_tiny_gguf(store.root / "whole.gguf")
    assert listed.name == "Tiny"
    assert listed.info.parameters == check_gguf(whole).parameters
    assert listed.info.size_bytes == sum(part.stat().st_size for part in parts)
    for name in ("Tiny", "tiny-q8_0", str(parts[0]), str(parts[-1])):
        assert store.resolve(name) == listed
    parts[1].unlink()
    with pytest.raises(ModelFileInvalid, match=f"there is no model file {parts[1]}"):
        store.resolve("Tiny")


def test_a_store_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    assert ModelStore(tmp_path / "absent").list() == []


@pytest.mark.demo
def test_the_real_demo_model(demo_model: Path) -> None:
    found = ModelStore(demo_model.parent).resolve("demo")
    assert (found.name, found.path) == (DEMO.name, demo_model)
    assert found.info.context_length == 8192
    assert found.info.parameters == 134_515_008


def test_a_store_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = ModelStore(tmp_path / "file")
    for read in (store.list, lambda: store.resolve("demo"), lambda: store.resolve("other")):
        with pytest.raises(ConfigError, match=r"the model store .*file cannot be read: Not a dir"):
            read()
