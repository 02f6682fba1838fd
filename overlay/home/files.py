"""How the files of a home are kept: private, replaced as a whole, damage told with the way out.

After a crash a file is the old or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from overlay.errors import ConfigError, HearthError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What reading values of another shape raises.
_UNREADABLE: Final = (
    ArithmeticError,
    AttributeError,
    HearthError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a file of this ``name`` holds.

    ``read`` makes it of the text, and may raise what Python raises for values of another shape, or
    HearthError. ``remedy`` is what to do about a file that cannot be read.
    """

    name: str
    read: Callable[[str], T]
    remedy: str


def read_file(path: Path) -> bytes:
    """All of a file. Raises OSError, also for a pipe in its place, which may never end."""
    with open(path, "rb", opener=open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read()


def open_at_once(path: str | Path, flags: int) -> int:
    """An opener: a pipe in the file's place is not waited for, and a new one is its owner's."""
    return os.open(path, flags | os.O_NONBLOCK, 0o600)


class Files:
    """The files under ``path``, which is created (mode 0700) when the first is written.

    All methods raise ConfigError for a file that cannot be accessed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, kind: Kind[T]) -> T | None:
        """What a file holds; None if there is none. Raises ConfigError for a damaged one."""
        with self.accessing(kind.name):
            try:
                data = read_file(self.path / kind.name)
            except FileNotFoundError:
                return None
        try:
            return kind.read(data.decode())
        except _UNREADABLE:
            raise self.damaged(kind) from None

    def damaged(self, kind: Kind[T]) -> ConfigError:
        """The error that says so."""
        return ConfigError(f"{self.path / kind.name} is damaged: {kind.remedy}")

    def load_or_set_aside(self, kind: Kind[T]) -> T | None:
        """As `load`, of a file that a node can do without: one that cannot be read is renamed."""
        try:
            return self.load(kind)
        except ConfigError:
            aside = self.path / f"{kind.name}.damaged"
            with self.accessing(kind.name):
                (self.path / kind.name).replace(aside)
            log.warning(
                "%s cannot be read, and is set aside as %s: %s",
                self.path / kind.name,
                aside.name,
                kind.remedy,
            )
            return None

    def save(self, kind: Kind[T], data: Any) -> None:
        """Replace a file by ``data`` as JSON."""
        self.write(kind, json.dumps(data, indent=2) + "\n")

    def write(self, kind: Kind[T], text: str) -> None:
        """Replace a file."""
        target, temporary = self.path / kind.name, self.path / f".{kind.name}.new"
        with self.accessing(kind.name):
            self.create_folder()
            temporary.unlink(missing_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "wb") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(fd)
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            self._sync()

    def remove(self, kind: Kind[T]) -> None:
        """Delete a file, if there is one."""
        with self.accessing(kind.name):
            try:
                (self.path / kind.name).unlink()
            except FileNotFoundError:
                return
            self._sync()

    def exists(self, kind: Kind[T]) -> bool:
        return (self.path / kind.name).exists()

    def make_private(self, kind: Kind[T]) -> None:
        """Take a file from the machine's other users, if they could read it, and say so."""
        with self.accessing(kind.name):
            if (self.path / kind.name).stat().st_mode & 0o077:
                (self.path / kind.name).chmod(0o600)
                log.warning(
                    "%s could be read by other users of this machine; it no longer can. "
                    "If somebody may have copied it, move this home away and join again.",
                    self.path / kind.name,
                )

    def create_folder(self) -> None:
        if not self.path.is_dir():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)

    def _sync(self) -> None:
        """A rename or a removal is on disk only once the folder is."""
        folder = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def accessing(self, name: str) -> Iterator[None]:
        """Within, an OSError becomes the ConfigError that tells of the file."""
        try:
            yield
        except OSError as error:
            raise ConfigError(f"cannot use {self.path / name}: {error.strerror}") from error
