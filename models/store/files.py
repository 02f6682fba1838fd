"""Model files as all fetches store them: whole, verified, and in their place in one step."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from overlay.errors import DownloadFailed

#: Called with (bytes fetched so far, bytes in all).
Progress = Callable[[int, int], None]


class Pinned(Protocol):
    """A file that is known before it is here."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def sha256(self) -> str:
        """In lower-case hex."""


def is_genuine(path: Path, pinned: Pinned) -> bool:
    """Whether the file is there and is the pinned one, byte for byte.

    The whole file is hashed each time: 0.15 s for the demo model, far less than loading it.
    """
    try:
        if path.stat().st_size != pinned.size_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == pinned.sha256
    except OSError:
        return False


def make_folder(root: Path) -> None:
    """Folders above it that are missing too: the home may be one, which only its owner may read."""
    for folder in (*reversed(root.parents), root):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)


def cannot_store(what: str, root: Path, error: OSError, no_room: str) -> DownloadFailed:
    """Why ``what`` is not in the folder; ``no_room``: the sentence for a full disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadFailed(no_room)
    return DownloadFailed(f"{what} cannot be stored in {root}: {error.strerror or error}")


def put_in_place(fresh: Path, target: Path) -> None:
    """``target`` is the file ``fresh`` from now on, also after a power cut. Raises OSError.

    Both are in one file system; what ``fresh`` holds has been synced.
    """
    fresh.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
