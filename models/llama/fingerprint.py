"""What a saved KV state belongs to: the exact model file, and the settings that shape the state.

The file's SHA-256 counts, not its name or date: a state of other weights would be silently wrong.
Hashing takes 0.6 s a gigabyte, so the digest is remembered beside the cache for as long as size,
inode and both times of the file stay what they were: no write leaves the change time as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path

from models.llama.piece_file import FINGERPRINT_BYTES


def file_identity(path: Path) -> str:
    """What is another as soon as the file is replaced or written to. Raises OSError."""
    return _identity(path.stat())


def model_digest(path: Path, folder: Path, loaded: str) -> bytes | None:
    """SHA-256 of the model file, remembered in ``folder``. Raises OSError if it cannot be read.

    ``loaded``: its identity before it was loaded. None: it has changed since, so that nobody can
    tell which weights were loaded.
    """
    note = folder / f"model-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}"
    with path.open("rb") as file:
        if _identity(os.fstat(file.fileno())) != loaded:
            return None
        with contextlib.suppress(OSError, UnicodeDecodeError):
            known = re.fullmatch(rf"{loaded}\n([0-9a-f]{{64}})\n", note.read_text())
            if known:
                return bytes.fromhex(known[1])
        digest = hashlib.file_digest(file, "sha256")
        if _identity(os.fstat(file.fileno())) != loaded:
            return None
    _remember(note, f"{loaded}\n{digest.hexdigest()}\n")
    return digest.digest()


def _identity(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def fingerprint(model: bytes, settings: str) -> bytes:
    """Of a model's digest, and of all that makes two states of one model differ in form."""
    return hashlib.sha256(model + settings.encode()).digest()[:FINGERPRINT_BYTES]


def _remember(note: Path, text: str) -> None:
    """Best effort: without the note the file is hashed again next time."""
    temporary = note.with_suffix(".new")
    with contextlib.suppress(OSError):
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(note)
