"""Fetch a large file over HTTP: resumed where it broke off, verified, put in its place in one step.

What has arrived is kept beside the target, under a name that holds the digest of the whole: what
goes on later is surely the same file. (The hub's own library begins anew after an interruption.)
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import httpx

from models.store.files import Progress, cannot_store, is_genuine, make_folder, put_in_place
from models.store.gguf_file import check_gguf
from overlay.errors import DownloadFailed, ModelFileInvalid

#: So often in a row a connection may break without a byte, and so long is the pause after each.
_PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0)
#: What a server says of itself, not of the request; 416 if what it has is shorter than announced.
_PASSING: Final = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that a server has, known before it is here."""

    url: str
    #: What it is called in the store.
    name: str
    size_bytes: int
    #: In lower-case hex.
    sha256: str


def fetch(
    http: httpx.Client, files: Sequence[RemoteFile], root: Path, progress: Progress
) -> list[Path]:
    """Bring the files of a GGUF model into the folder ``root``, unless they are there. Blocks.

    Raises DownloadFailed; what has arrived by then stays, and the next call goes on from there.
    """
    size = sum(file.size_bytes for file in files)
    before = 0
    try:
        make_folder(root)
        if shutil.disk_usage(root).free < sum(_missing_bytes(file, root) for file in files):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for file in files:
            _fetch_one(http, file, root, _part_of_all(progress, before, size))
            before += file.size_bytes
    except OSError as error:
        name = files[0].name
        no_room = (
            f"no room for {name}: {root} has to have {size / 1e6:,.0f} MB for it; with more room, "
            "the same command goes on where it stopped"
        )
        raise cannot_store(name, root, error, no_room) from None
    return [root / file.name for file in files]


def _fetch_one(http: httpx.Client, file: RemoteFile, root: Path, progress: Progress) -> None:
    with _part_of(file, root) as part:
        if part is not None:
            _receive(http, file, part, progress)
            _verify(file, part)
            put_in_place(Path(part.name), root / file.name)
    _drop_superseded(file, root)


def _part_of_all(progress: Progress, before: int, size: int) -> Progress:
    """Reports of one file as the reports of all, after so many bytes of so many."""
    return lambda done, _: progress(before + done, size)


def unreachable(host: str, error: httpx.HTTPError) -> DownloadFailed:
    """No answer came from there."""
    return DownloadFailed(
        f"{host} cannot be reached ({str(error) or type(error).__name__}); is this machine online?"
    )


def refusal(reply: httpx.Response, what: str) -> DownloadFailed:
    """The server's answer is that it does not give this."""
    host = reply.request.url.host
    # The hub has its reason in a header, whatever the body is.
    reason = reply.headers.get("X-Error-Message") or f"{reply.status_code} {reply.reason_phrase}"
    hint = ""
    if reply.status_code in (401, 403):
        hint = "; accept its terms on its page if it has some, and set HF_TOKEN to your token"
    return DownloadFailed(f"{host} does not give {what}: {reason.rstrip('.')}{hint}")


def _part_path(remote: RemoteFile, root: Path) -> Path:
    return root / f".{remote.name}.{remote.sha256[:16]}.part"


def _drop_superseded(remote: RemoteFile, root: Path) -> None:
    """What had arrived of other files of this name can get its place no more.

    Who is about to go on with one sees so as soon as it has the lock.
    """
    digest = "[0-9a-f]" * 16
    for path in root.glob(f".{glob.escape(remote.name)}.{digest}.part"):
        with suppress(OSError), path.open("rb") as part:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _missing_bytes(remote: RemoteFile, root: Path) -> int:
    """What is still to come of it, as far as sizes tell."""
    for path in (root / remote.name, _part_path(remote, root)):
        if path.exists():
            return max(0, remote.size_bytes - path.stat().st_size)
    return remote.size_bytes


@contextmanager
def _part_of(remote: RemoteFile, root: Path) -> Iterator[BinaryIO | None]:
    """What has arrived of it so far, for this process alone; None: all of it is in place."""
    target = root / remote.name
    if _in_place(remote, target):
        yield None
        return
    path = _part_path(remote, root)
    with path.open("a+b") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadFailed(f"another process fetches {remote.name} right now") from None
        # It may have got its place between these steps.
        if _in_place(remote, target):
            path.unlink(missing_ok=True)
            yield None
        else:
            yield part


def _in_place(remote: RemoteFile, target: Path) -> bool:
    if not target.exists():
        return False
    if is_genuine(target, remote):
        return True
    raise DownloadFailed(
        f"{target} is another file than the one of that name at {httpx.URL(remote.url).host}; "
        "move it away to fetch this one"
    )


def _receive(http: httpx.Client, remote: RemoteFile, part: BinaryIO, progress: Progress) -> None:
    """Append what is missing, and sync it."""
    arrived = part.seek(0, os.SEEK_END)
    progress(arrived, remote.size_bytes)
    pauses = iter(_PAUSES_S)
    while part.tell() < remote.size_bytes:
        arrived = part.tell()
        try:
            _append(http, remote, part, progress)
        except _BrokenOff as error:
            if part.tell() > arrived:
                pauses = iter(_PAUSES_S)
            pause = next(pauses, None)
            if pause is None:
                raise DownloadFailed(
                    f"{remote.name} broke off after {part.tell() / 1e6:,.0f} of "
                    f"{remote.size_bytes / 1e6:,.0f} MB ({error}); the same command goes on there"
                ) from None
            time.sleep(pause)
    part.flush()
    os.fsync(part.fileno())


class _BrokenOff(Exception):
    """It may go on later."""


def _append(http: httpx.Client, remote: RemoteFile, part: BinaryIO, progress: Progress) -> None:
    """One request for all that is missing. Raises _BrokenOff, DownloadFailed."""
    arrived = part.tell()
    # As it is: a range of something compressed would be of no use.
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={arrived}-"}
    try:
        with http.stream("GET", remote.url, headers=headers) as reply:
            _begin(reply, remote, part)
            for chunk in reply.iter_raw():
                part.write(chunk)
                progress(min(part.tell(), remote.size_bytes), remote.size_bytes)
                if part.tell() > remote.size_bytes:
                    return
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _BrokenOff(str(error) or type(error).__name__) from None
    if part.tell() <= arrived:
        raise _BrokenOff("the server sends nothing")


def _begin(reply: httpx.Response, remote: RemoteFile, part: BinaryIO) -> None:
    """See to it that what comes goes on where ``part`` ends."""
    if reply.status_code == httpx.codes.PARTIAL_CONTENT:
        sent = reply.headers.get("Content-Range", "")
        whole = (f"/{remote.size_bytes}", "/*")
        if sent.startswith(f"bytes {part.tell()}-") and sent.endswith(whole):
            return
        raise _BrokenOff("the server sends another range than was asked for")
    if reply.status_code in _PASSING:
        raise _BrokenOff(f"{reply.status_code} {reply.reason_phrase}")
    if reply.status_code != httpx.codes.OK:
        raise refusal(reply, remote.name)
    if reply.headers.get("Content-Length", "") not in ("", str(remote.size_bytes)):
        # A page of a network's owner, say: what has arrived is worth more.
        raise _BrokenOff("the server sends something else than the file")
    # It gives no parts of the file: all from the beginning.
    part.seek(0)
    part.truncate()


def _verify(remote: RemoteFile, part: BinaryIO) -> None:
    """Nothing of what is no such model stays. Raises DownloadFailed."""
    path = Path(part.name)
    try:
        if not is_genuine(path, remote):
            raise DownloadFailed(
                f"what arrived is not {remote.name} as it was announced (its SHA-256 differs), so "
                "it was not stored; fetch it again"
            )
        check_gguf(path)
    except (DownloadFailed, ModelFileInvalid):
        part.seek(0)
        part.truncate()
        raise
