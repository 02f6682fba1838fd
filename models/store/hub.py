"""Models on a Hugging Face hub: what a name means there, and which of a repository's files it is.

The hub's API: https://huggingface.co/docs/hub/api. Its address is ``HF_ENDPOINT`` and the user's
token ``HF_TOKEN``, as for other tools.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

import httpx

from models.store.download import RemoteFile, refusal, unreachable
from models.store.names import quantisation_of
from overlay.errors import DownloadFailed, ModelNotFound

_ENDPOINT: Final = "https://huggingface.co"
#: ``OWNER/REPO``, ``OWNER/REPO:Q4_K_M``, ``OWNER/REPO:file.gguf``; as other tools write it, with
#: ``hf.co/`` before it; and the address of a repository's page, or of a file's.
_NAME: Final = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)?"
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?::(?P<wanted>[^:?#]+)|/(?:blob|resolve|tree)/[^/?#]+(?:/(?P<file>[^?#]+))?)?"
    r"/?(?:[?#].*)?",
    re.ASCII,
)
#: The best size for its quality, by common consent: what is taken unless the user says.
_USUAL: Final = "Q4_K_M"
#: Beside the models: projectors of images, and what a quantisation was made with.
_NO_MODELS: Final = re.compile(r"mmproj|imatrix", re.IGNORECASE)
_PART: Final = re.compile(r"-\d{5}-of-\d{5}$")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository, and what is wanted of it: a quantisation, a file's name, or "" (the usual)."""

    repo: str
    wanted: str = ""

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """None: this is no name of the hub's."""
        found = _NAME.fullmatch(text)
        return found and cls(found["repo"], found["wanted"] or found["file"] or "")


def client() -> httpx.Client:
    """Speaks to the hub as the user; proxies and certificates are those of the environment.

    The token goes to the hub alone: httpx drops it where a redirect leads elsewhere.
    """
    token = os.environ.get("HF_TOKEN", "").strip()
    return httpx.Client(
        base_url=os.environ.get("HF_ENDPOINT") or _ENDPOINT,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        follow_redirects=True,
        timeout=_TIMEOUT_S,
    )


def find(http: httpx.Client, name: HubName) -> RemoteFile:
    """The file that is meant. Blocks.

    Raises DownloadFailed (the hub cannot be reached, or refuses), ModelNotFound (it has no such
    repository or file, or several that may be meant).
    """
    try:
        reply = http.get(f"api/models/{name.repo}", params={"blobs": "true"})
    except httpx.HTTPError as error:
        raise unreachable(http.base_url.host, error) from None
    # The hub hides private repositories behind the status of a missing login.
    if reply.status_code in (401, 404):
        raise ModelNotFound(
            f"{http.base_url.host} has no model {name.repo!r} that you may see; look for the name "
            "on its pages, or set HF_TOKEN if it is private"
        )
    if reply.status_code != httpx.codes.OK:
        raise refusal(reply, name.repo)
    try:
        said = reply.json()
        revision = str(said["sha"])
        files = [_Listed.read(entry) for entry in said["siblings"]]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DownloadFailed(
            f"{http.base_url.host} answers in words that no hub uses (HF_ENDPOINT?)"
        ) from None
    chosen = _choose(files, name)
    if not _SHA256.fullmatch(chosen.sha256):
        raise DownloadFailed(f"the hub gives no digest of {chosen.path}, so it is not fetched")
    path = f"{name.repo}/resolve/{quote(revision)}/{quote(chosen.path)}"
    return RemoteFile(
        url=str(http.base_url.join(path)),
        name=PurePosixPath(chosen.path).name,
        size_bytes=chosen.size_bytes,
        sha256=chosen.sha256,
    )


@dataclass(frozen=True, slots=True)
class _Listed:
    """A file as the hub lists it."""

    #: Within the repository.
    path: str
    size_bytes: int
    #: Empty for small files, which are no models.
    sha256: str

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> _Listed:
        path = str(entry["rfilename"])
        if not path.isprintable():
            raise ValueError(path)
        large = entry.get("lfs") or {}
        return cls(
            path=path,
            size_bytes=int(large.get("size", 0)),
            sha256=str(large.get("sha256", "")),
        )

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem

    @property
    def quantisation(self) -> str:
        return quantisation_of(_PART.sub("", self.stem))


def _choose(files: Sequence[_Listed], name: HubName) -> _Listed:
    models = [
        file
        for file in files
        if file.path.lower().endswith(".gguf") and not _NO_MODELS.search(file.stem)
    ]
    if not models:
        raise ModelNotFound(
            f"{name.repo} has no GGUF files; many models have them in a repository of their own, "
            f"called like {name.repo}-GGUF"
        )
    wanted = name.wanted.casefold()
    if wanted.endswith(".gguf"):
        found = [f for f in models if wanted in (f.path.casefold(), f"{f.stem}.gguf".casefold())]
    else:
        of = wanted or _USUAL.casefold()
        found = [file for file in models if file.quantisation.casefold() == of] or [
            file for file in models if file.quantisation.casefold() == f"ud-{of}"
        ]
        if not wanted and not found and len(models) == 1:
            found = models
    if len(found) == 1 and not _PART.search(found[0].stem):
        return found[0]
    if found and all(_PART.search(file.stem) for file in found):
        raise ModelNotFound(
            f"{found[0].path} is in {len(found)} parts, which Hearth does not fetch; take another "
            f"quantisation: {_offer(models)}"
        )
    if found:
        names = ", ".join(f"{name.repo}:{PurePosixPath(file.path).name}" for file in found)
        raise ModelNotFound(f"several files may be meant; say which: {names}")
    asked = f"no {name.wanted}" if wanted else f"no {_USUAL}, which is the usual one"
    raise ModelNotFound(f"{name.repo} has {asked}; add one to the name: {_offer(models)}")


def _offer(models: Sequence[_Listed]) -> str:
    """What one can ask for, the smallest first."""
    whole = [file for file in models if not _PART.search(file.stem)]
    whole.sort(key=lambda file: file.size_bytes)
    return ", ".join(
        f":{file.quantisation or PurePosixPath(file.path).name} ({file.size_bytes / 1e9:.1f} GB)"
        for file in whole
    )
