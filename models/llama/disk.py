"""Pieces of KV state on disk: what this machine once computed, kept over restarts.

A folder has one subfolder for each fingerprint (the exact model file and settings, see
`models.llama.fingerprint`), with one file for each piece (`models.llama.piece_file`). Whoever uses
a subfolder holds its lock. Whatever is not as it should be is a miss and is removed: nothing here
ever raises because of the disk.

Files are written by a thread, so that a slow disk does not hold up running streams; until then
pieces are read from memory. There is no fsync: after a power cut some files may hold anything, and
their digests say so.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.engine import Tokens
from models.llama import piece_file, protocol
from models.llama.folder_lock import LOCK, is_held, lock

log = logging.getLogger(__name__)

#: Bytes of pieces that wait in memory for the disk; further ones are refused. One always may wait.
HELD_BYTES_MAX: Final = 64 << 20
#: A cache must not take the last of a disk: this much stays free.
FREE_BYTES_MIN: Final = 256 << 20
#: An engine that has just ended may hold the lock for as long as it takes to finish its writes.
LOCK_WAIT_S: Final = protocol.SAVE_S + 1.0
_LOCK_POLL_S: Final = 0.02

_TEMPORARY: Final = ".new"
_KEY: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{32}")
_FINGERPRINT: Final = re.compile(rf"[0-9a-f]{{{2 * piece_file.FINGERPRINT_BYTES}}}")
#: Tells backup programs to leave the folder out (https://bford.info/cachedir/).
_TAG: Final = ("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n")


@dataclass(frozen=True, slots=True)
class Entry:
    """A piece found on disk: positions ``[start, len(tokens))`` of the path ``tokens``."""

    key: str
    tokens: Tokens
    start: int
    #: Bytes of the file.
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A payload on its way to the disk; compared by identity, as a key may be written again."""

    payload: bytes


class DiskStore:
    """The pieces of one fingerprint in ``folder``, where all together may take ``budget`` bytes.

    The caller chooses what to remove when there is no room; only pieces of other fingerprints that
    nobody uses now go by themselves. All methods belong to one thread.
    """

    def __init__(self, folder: Path, fingerprint: bytes, budget: int, sharers: int = 1) -> None:
        """Opens the folder, which need not exist. If it cannot, the store stays empty: a log
        record says why, ``in_use`` is False, and nothing is written. ``sharers``: so many models,
        this one among them, are used side by side and have even shares of the budget."""
        assert len(fingerprint) == piece_file.FINGERPRINT_BYTES
        self._folder = folder
        self._own = folder / fingerprint.hex()
        self._fingerprint = fingerprint
        #: Bytes that the pieces here may take, and those with what nobody uses.
        self._share = budget // sharers
        self._room = budget
        #: Pieces that turned out damaged or vanished, since the store was opened.
        self.damaged = 0
        self._complained: set[int | None] = set()
        # Guards what the writing thread touches too: the next five. Notified of each write's end.
        self._guard = threading.Condition()
        self._sizes: dict[str, int] = {}
        self._used = 0
        self._held: dict[str, _Held] = {}
        self._held_bytes = 0
        self._failed: list[str] = []
        #: Unused subfolders of other fingerprints, the longest unused first, and their bytes.
        self._others: list[tuple[Path, int]] = []
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="kv-disk", daemon=True)
        self._lock_fd = self._claim()
        if self._lock_fd is not None:
            self._look(sharers)
            self._jobs.put(self._make_room)
            self._thread.start()

    @property
    def in_use(self) -> bool:
        """Whether this store holds its folder."""
        return self._lock_fd is not None

    @property
    def used(self) -> int:
        """Bytes of all pieces here, those on their way to the disk among them."""
        with self._guard:
            return self._used

    def entries(self) -> Iterator[Entry]:
        """What was found at opening, shortest path first, so that parents come before children.

        Reads headers only. Files that are damaged, or of another version, are removed.
        """
        with self._guard:
            found = sorted(self._sizes.items())
        for key, size in found:
            header = None
            with self._reading(key), (self._own / key).open("rb") as file:
                header = piece_file.read_header(file, key, size, self._fingerprint)
            if header is None:
                self._lose(key)
            else:
                yield Entry(key, header.tokens, header.start, size)

    def is_late(self, payload_bytes: int) -> bool:
        """Whether a piece would be refused because the disk cannot keep up: it may fit later."""
        with self._guard:
            return self.in_use and not self._may_hold(payload_bytes)

    def write(
        self, tokens: Sequence[int], start: int, payload: bytes, *, wait_s: float = 0.0
    ) -> str | None:
        """Keep the state of positions ``[start, len(tokens))`` of a path; returns its key.

        The same path and start give the same key, and what is there is not written again. None if
        it does not fit, or the disk cannot keep up: do without it, as waiting would stall streams,
        unless there are none and ``wait_s`` says so. If the disk fails later, see `take_failed`.
        """
        assert 0 <= start < len(tokens), "a piece covers at least one token"
        if self._lock_fd is None:
            return None
        packed = piece_file.pack_tokens(tokens)
        key = piece_file.key_of(packed, start)
        size = piece_file.file_bytes(len(tokens), len(payload))
        held = _Held(payload)
        with self._guard:
            if key in self._sizes:
                return key
            if self._used + size > self._share:
                return None
            if not self._guard.wait_for(lambda: self._may_hold(len(payload)), wait_s):
                return None
            self._sizes[key] = size
            self._used += size
            self._held[key] = held
            self._held_bytes += len(payload)
        self._jobs.put(lambda: self._store(key, packed, start, held))
        return key

    def take_failed(self) -> list[str]:
        """Keys that could not be written after all, since the last call: they are misses."""
        with self._guard:
            failed, self._failed = self._failed, []
        return failed

    def read(self, key: str) -> bytes | None:
        """The payload as it was written; None, and no longer there, if it is not whole."""
        with self._guard:
            known = key in self._sizes
            held = self._held.get(key)
        if held is not None:
            return held.payload
        if not known or not self.in_use:
            return None
        payload = None
        with self._reading(key), (self._own / key).open("rb") as file:
            actual = os.fstat(file.fileno()).st_size
            header = piece_file.read_header(file, key, actual, self._fingerprint)
            if header is not None:
                payload = piece_file.read_payload(file, header)
        if payload is None:
            self._lose(key)
        return payload

    def remove(self, key: str) -> None:
        """Give up a piece; unknown keys are ignored."""
        with self._guard:
            if not self._drop(key):
                return
        # In its turn: after the write that may be under way, before one that may follow.
        self._jobs.put(lambda: self._delete(self._own / key))

    def close(self, timeout_s: float) -> None:
        """Finish the writes, for so long at most, and give the folder free; idempotent."""
        if self._lock_fd is None:
            return
        self._jobs.put(None)
        self._thread.join(timeout_s)
        lock_fd, self._lock_fd = self._lock_fd, None
        if not self._thread.is_alive():  # else the lock goes with the process
            os.close(lock_fd)

    # --- opening ------------------------------------------------------------------------------

    def _claim(self) -> int | None:
        """Lock the own subfolder; None, with a word in the log, if that cannot be done."""
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._make_folder()
            give_up = time.monotonic() + LOCK_WAIT_S
            while (fd := lock(self._own)) is None and time.monotonic() < give_up:
                time.sleep(_LOCK_POLL_S)
            if fd is not None:
                os.utime(self._own / LOCK)  # the last use, see `_others`
        except OSError as error:
            log.warning("the disk cache %s cannot be used: %s", self._folder, error.strerror)
            return None
        if fd is None:
            log.warning(
                "the disk cache %s is in use by another process with the same model: this one "
                "goes without",
                self._own,
            )
        return fd

    def _make_folder(self) -> None:
        """The folder of all models, marked. Raises OSError, also if the home is gone."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        name, text = _TAG
        (self._folder / name).write_bytes(text)

    def _look(self, sharers: int) -> None:
        """Find what earlier runs left: own pieces as far as the share goes, and other folders."""
        try:
            self._sizes = _pieces(self._own)
            self._others, in_use = _others(self._folder, self._own)
            # Those that are not open yet are among the unused: as they were used last time, too,
            # whatever else there is goes before them.
            self._room -= min(in_use, sharers - 1) * self._share
        except OSError as error:
            self._complain(error)
        self._used = sum(self._sizes.values())
        for key in reversed(list(self._sizes)):
            if self._used <= self._share:
                break
            self.remove(key)  # the longest paths: nothing else continues them

    # --- the writing thread -------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _store(self, key: str, packed_tokens: bytes, start: int, held: _Held) -> None:
        """Write the piece unless it was removed meanwhile; a failure makes it a miss."""
        with self._guard:
            if self._held.get(key) is not held:
                return
        self._make_room()
        target, temporary = self._own / key, self._own / (key + _TEMPORARY)
        header = piece_file.pack_header(self._fingerprint, packed_tokens, start, held.payload)
        try:
            self._hold()
            if shutil.disk_usage(self._own).free < FREE_BYTES_MIN + len(held.payload):
                raise OSError(None, f"less than {FREE_BYTES_MIN >> 20} MiB would stay free")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o600), "wb", buffering=0) as file:
                for part in (header, held.payload):
                    _write_all(file.fileno(), part)
            temporary.replace(target)
            written = True
        except OSError as error:
            self._complain(error)
            self._delete(temporary)
            written = False
        with self._guard:
            if self._held.get(key) is held:
                if written:
                    del self._held[key]
                    self._held_bytes -= len(held.payload)
                else:
                    self._drop(key)
                    self._failed.append(key)
            self._guard.notify()

    def _hold(self) -> None:
        """Make the own subfolder anew, with its lock, if it was deleted. Raises OSError."""
        held = self._lock_fd
        if held is None:
            return  # closed, and nobody waited for the rest
        if is_held(held, self._own):
            return
        self._make_folder()
        fd = lock(self._own)
        if fd is None:
            raise OSError(errno.EBUSY, "it was deleted, and another process uses it now")
        os.dup2(fd, held, inheritable=False)
        os.close(fd)

    def _make_room(self) -> None:
        """Delete others' pieces, the longest unused first, until all fits into the budget."""
        while self._others and self.used + sum(size for _, size in self._others) > self._room:
            folder, _ = self._others.pop(0)
            with contextlib.suppress(OSError):
                fd = lock(folder)  # somebody may have begun to use it
                if fd is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    os.close(fd)

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._complain(error)

    # --- within -------------------------------------------------------------------------------

    def _may_hold(self, payload_bytes: int) -> bool:
        return not self._held or self._held_bytes + payload_bytes <= HELD_BYTES_MAX

    def _drop(self, key: str) -> bool:
        """Take a piece off the books, under the guard; False if it is not in them."""
        size = self._sizes.pop(key, None)
        if size is None:
            return False
        self._used -= size
        held = self._held.pop(key, None)
        if held is not None:
            self._held_bytes -= len(held.payload)
        return True

    def _lose(self, key: str) -> None:
        self.damaged += 1
        self.remove(key)

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            pass  # somebody cleaned up: a cache may be deleted at any time
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        """Once for each kind of error: a full disk would fill the log as well."""
        if error.errno not in self._complained:
            self._complained.add(error.errno)
            log.warning("the disk cache %s fails: %s", self._folder, error.strerror)


def _pieces(folder: Path) -> dict[str, int]:
    """Names and sizes of the pieces in a subfolder; leftovers of broken writes are deleted."""
    found = {}
    with os.scandir(folder) as files:
        for file in sorted(files, key=lambda each: each.name):
            # What has just vanished, or is something else by that name, must not hide the others.
            with contextlib.suppress(OSError):
                if not file.is_file(follow_symlinks=False):
                    continue
                if _KEY.fullmatch(file.name):
                    found[file.name] = file.stat().st_size
                elif _KEY.fullmatch(file.name.removesuffix(_TEMPORARY)):
                    os.unlink(file)
    return found


def _others(folder: Path, own: Path) -> tuple[list[tuple[Path, int]], int]:
    """Other fingerprints' subfolders that nobody has locked: path and bytes, oldest use first;
    and how many are locked."""
    found, in_use = [], 0
    for path in folder.iterdir():
        if path == own or not _FINGERPRINT.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):
            fd = lock(path)
            if fd is None:
                in_use += 1
                continue
            try:
                found.append((os.fstat(fd).st_mtime, path, sum(_pieces(path).values())))
            finally:
                os.close(fd)
    return [(path, size) for _, path, size in sorted(found)], in_use


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
