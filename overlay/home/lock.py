"""One node per home: a file that is locked (``flock``) while it runs."""

from __future__ import annotations

import fcntl
import os
import time
from typing import Final

from overlay.errors import HomeInUse
from overlay.home.files import Files, open_at_once

_NAME: Final = "lock"
#: `HomeLock.is_held` holds the lock for an instant to see whether it is free; `take` outwaits that.
_WAIT_S: Final = 0.2


class HomeLock:
    """The lock of the home of ``files``; all methods raise ConfigError if it cannot be accessed."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._fd: int | None = None

    def take(self) -> None:
        """Until `release` or the process's end. Raises HomeInUse, naming the pid."""
        path = self._files.path
        if self._fd is not None:
            raise HomeInUse(f"{path} is in use by this process already")
        with self._files.accessing(_NAME):
            self._files.create_folder()
            fd = os.open(path / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up = time.monotonic() + _WAIT_S
        while not _try_lock(fd, fcntl.LOCK_EX):
            if time.monotonic() > give_up:
                pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
                os.close(fd)
                raise HomeInUse(
                    f"{path} is in use by a running node (pid {pid or 'unknown'}): end that "
                    "one first, or give another --home"
                )
            time.sleep(0.01)
        self._fd = fd
        with self._files.accessing(_NAME):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Harmless when it is not taken."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def is_held(self) -> bool:
        """Whether a node runs, of this process or another one."""
        with self._files.accessing(_NAME):
            try:
                fd = open_at_once(self._files.path / _NAME, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                return not _try_lock(fd, fcntl.LOCK_SH)
            finally:
                os.close(fd)


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
