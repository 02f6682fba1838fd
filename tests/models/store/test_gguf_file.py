"""The header reader, against files that the gguf package wrote and files that lie."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.store.gguf_file import BLOCK_SIZES, FILE_TYPES, check_gguf
from overlay.errors import ModelFileInvalid
from tests.models.store.wheels import write_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf")


def header(tensors: int = 0, entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def test_reads_what_another_implementation_wrote(model: Path) -> None:
    info = check_gguf(model)
    assert info.architecture == "llama"
    assert info.context_length == 2048
    assert info.quantisation == "Q8_0"
    assert info.parameters == 2 * 64 * 64
    reference = gguf.GGUFReader(model)
    assert info.end_bytes == max(t.data_offset + t.n_bytes for t in reference.tensors)
    assert info.size_bytes == model.stat().st_size >= info.end_bytes


def test_type_tables_agree_with_the_gguf_package() -> None:
    reference = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: reference[kind] for kind in BLOCK_SIZES} == BLOCK_SIZES
    for number, name in FILE_TYPES.items():
        assert name in gguf.LlamaFileType(number).name


@pytest.mark.parametrize("missing", [1, 100, 64 * 2 * 34])
def test_says_how_many_bytes_are_missing(model: Path, tmp_path: Path, missing: int) -> None:
    info = check_gguf(model)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[: info.end_bytes - missing])
    with pytest.raises(ModelFileInvalid, match=rf"truncated: {missing:,} of {info.end_bytes:,}"):
        check_gguf(cut)


def test_every_cut_is_noticed(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    end = check_gguf(model).end_bytes
    cut = tmp_path / "cut.gguf"
    for length in range(0, end, 37):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelFileInvalid):
            check_gguf(cut)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileInvalid, match="there is no model file"):
        check_gguf(tmp_path / "absent.gguf")


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip, not a model"])
def test_not_a_gguf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.gguf").write_bytes(content)
    with pytest.raises(ModelFileInvalid, match="is no GGUF"):
        check_gguf(tmp_path / "other.gguf")


def test_directories_and_pipes_are_refused_without_opening_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path, tmp_path / "pipe.gguf"):
        with pytest.raises(ModelFileInvalid, match="no regular file"):
            check_gguf(path)


@pytest.mark.parametrize(
    ("content", "claim"),
    [
        (header(version=1), "version 1"),
        (header(tensors=1 << 60), "tensors"),
        (header(entries=1 << 60), "metadata entries"),
        (header(entries=1) + struct.pack("<Q", 1 << 60), "bytes of a string"),
        (header(entries=1) + text(b"k") + struct.pack("<I", 99), "type 99"),
        (header(entries=1) + text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 60), "elements"),
        (
            header(entries=1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1),
            "array of values of type 9",
        ),
        (header(entries=1) + text(b"general.alignment") + struct.pack("<II", 4, 0), "alignment"),
        (header(tensors=1) + text(b"t") + struct.pack("<I", 1 << 31), "dimensions"),
        (
            header(tensors=1) + text(b"t") + struct.pack("<IQQIQ", 2, 1 << 63, 1 << 63, 0, 0),
            "weights",
        ),
    ],
)
def test_claims_beyond_all_bounds_are_refused(tmp_path: Path, content: bytes, claim: str) -> None:
    path = tmp_path / "liar.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileInvalid, match=claim):
        check_gguf(path)


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (struct.pack("<Ii", 5, 2048), 2048),
        (struct.pack("<Ii", 5, -1), 0),
        (struct.pack("<If", 6, 2048.0), 0),
        (struct.pack("<I", 8) + text(b"2048"), 0),
        (struct.pack("<IIQ", 9, 4, 0), 0),
    ],
)
def test_a_context_of_no_whole_number_is_none(tmp_path: Path, value: bytes, length: int) -> None:
    path = tmp_path / "odd.gguf"
    architecture = text(b"general.architecture") + struct.pack("<I", 8) + text(b"a")
    path.write_bytes(header(entries=2) + architecture + text(b"a.context_length") + value)
    assert check_gguf(path).context_length == length


def test_a_header_that_ends_amid_what_is_not_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(header(entries=1) + text(b"k") + struct.pack("<IIQ", 9, 4, 100) + bytes(399))
    with pytest.raises(ModelFileInvalid, match="truncated: 1 of"):
        check_gguf(path)


@given(content=st.binary(max_size=400), as_gguf=st.booleans())
def test_garbage_raises_only_model_file_invalid(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, as_gguf: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.gguf"
    path.write_bytes(header(2, 3) + content if as_gguf else content)
    with pytest.raises(ModelFileInvalid):
        check_gguf(path)


@given(data=st.data())
def test_damage_raises_only_model_file_invalid(
    tmp_path_factory: pytest.TempPathFactory, model: Path, data: st.DataObject
) -> None:
    content = bytearray(model.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, 400))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        content[at : at + len(patch)] = patch
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content)
    try:
        info = check_gguf(path)
    except ModelFileInvalid:
        return
    assert info.end_bytes <= info.size_bytes
