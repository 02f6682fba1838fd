"""A folder's lock: a file in it, that may be deleted with the folder at any time.

The system's lock belongs to the file that was opened, not to its name. So it keeps nobody out once
another file has the name.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

LOCK: Final = "lock"


def lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None while somebody else does.

    Raises OSError. The folder is made if it is not there.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been deleted between the two calls.
        if is_held(fd, folder):
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def is_held(fd: int, folder: Path) -> bool:
    """Whether the descriptor of a lock is still the folder's. Raises OSError."""
    try:
        return os.fstat(fd).st_ino == os.stat(folder / LOCK).st_ino
    except FileNotFoundError:
        return False
