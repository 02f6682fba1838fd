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
from urllib.parse import quote, unquote

import httpx

from models.store.download import RemoteFile, refusal, unreachable
from models.store.names import parts_of, quantisation_of
from overlay.errors import ConfigError, DownloadFailed, ModelNotFound
from overlay.printable import is_printable

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
_ADDRESS: Final = re.compile(r"https?://[^/]", re.IGNORECASE)
_TOKEN: Final = re.compile(r"[!-~]*")
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
        return found and cls(found["repo"], found["wanted"] or unquote(found["file"] or ""))


def client() -> httpx.Client:
    """Speaks to the hub as the user; proxies and certificates are those of the environment.

    The token goes to the hub alone: httpx drops it where a redirect leads elsewhere.
    Raises ConfigError if the environment says what cannot be.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or _ENDPOINT
    token = os.environ.get("HF_TOKEN", "").strip()
    if not _TOKEN.fullmatch(token):
        raise ConfigError("HF_TOKEN holds characters that no token has; copy it again")
    if not _ADDRESS.match(endpoint):
        raise ConfigError(f"HF_ENDPOINT is no address of a hub, such as {_ENDPOINT}: {endpoint!r}")
    try:
        return httpx.Client(
            base_url=endpoint,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            follow_redirects=True,
            timeout=_TIMEOUT_S,
        )
    # Of addresses, certificates, and kinds of proxies that need a library which is not here.
    except (httpx.InvalidURL, ValueError, OSError, ImportError) as error:
        raise ConfigError(
            f"no hub can be asked with what the environment says ({error}); see to HTTPS_PROXY, "
            "ALL_PROXY, NO_PROXY, SSL_CERT_FILE and HF_ENDPOINT"
        ) from None


def find(http: httpx.Client, name: HubName) -> list[RemoteFile]:
    """The files of the model that is meant, in order. Blocks.

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
    chosen = _choose(_models(files), name)
    return [_remote(http, f"{name.repo}/resolve/{quote(revision)}", file) for file in chosen.files]


@dataclass(frozen=True, slots=True)
class _Listed:
    """A file as the hub lists it."""

    #: Within the repository.
    path: PurePosixPath
    size_bytes: int
    #: Empty for small files, which are no models.
    sha256: str

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> _Listed:
        path = str(entry["rfilename"])
        if not is_printable(path):
            raise ValueError(path)
        large = entry.get("lfs") or {}
        return cls(
            path=PurePosixPath(path),
            size_bytes=int(large.get("size", 0)),
            sha256=str(large.get("sha256", "")),
        )


def _remote(http: httpx.Client, folder: str, file: _Listed) -> RemoteFile:
    if not _SHA256.fullmatch(file.sha256):
        raise DownloadFailed(f"the hub gives no digest of {file.path}, so it is not fetched")
    return RemoteFile(
        url=str(http.base_url.join(f"{folder}/{quote(str(file.path))}")),
        name=file.path.name,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
    )


@dataclass(frozen=True, slots=True)
class _Model:
    """A model of the repository: its file, or all of them in order."""

    files: tuple[_Listed, ...]

    @property
    def file_name(self) -> str:
        return self.files[0].path.name

    @property
    def quantisation(self) -> str:
        return quantisation_of(self.files[0].path)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def is_called(self, wanted: str) -> bool:
        """Whether that is, in small letters, the name of one of its files, in its folder or not."""
        paths = (file.path for file in self.files)
        return any(wanted in (str(path).casefold(), path.name.casefold()) for path in paths)


def _models(listed: Sequence[_Listed]) -> list[_Model]:
    """Those that are whole, the smallest first."""
    by_path = {file.path: file for file in listed if file.path.suffix == ".gguf"}
    models = [
        _Model(tuple(by_path[part] for part in parts_of(path)))
        for path in by_path
        if path == parts_of(path)[0]
        and by_path.keys() >= {*parts_of(path)}
        and not _NO_MODELS.search(path.stem)
    ]
    return sorted(models, key=lambda model: model.size_bytes)


def _choose(models: Sequence[_Model], name: HubName) -> _Model:
    if not models:
        raise ModelNotFound(
            f"{name.repo} has no GGUF files; many models have them in a repository of their own, "
            f"called like {name.repo}-GGUF"
        )
    wanted = name.wanted.casefold() or _USUAL.casefold()
    found = (
        [model for model in models if model.is_called(wanted)]
        or [model for model in models if model.quantisation.casefold() == wanted]
        or [model for model in models if model.quantisation.casefold() == f"ud-{wanted}"]
    )
    if not found and not name.wanted and len(models) == 1:
        found = [*models]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{name.repo}:{model.file_name}" for model in found)
        raise ModelNotFound(f"several files may be meant; say which: {names}")
    asked = name.wanted or f"{_USUAL}, which is the usual one"
    offered = ", ".join(
        f":{model.quantisation or model.file_name} ({model.size_bytes / 1e9:.1f} GB)"
        for model in models
    )
    raise ModelNotFound(f"{name.repo} has no {asked}; add one to the name: {offered}")
