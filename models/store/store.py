"""The model store: a directory of GGUF files, found by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models.store import demo, download, hub
from models.store.catalogue import CATALOGUE, ModelSpec, known
from models.store.files import Progress, is_genuine
from models.store.gguf_file import GgufInfo, check_gguf
from models.store.hub import HubName
from models.store.names import model_name, parts_of, stem_of
from overlay.errors import ConfigError, ModelFileInvalid, ModelNotFound

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file on this machine whose header has been checked."""

    name: str
    aliases: tuple[str, ...]
    #: The first one, of a model in several files.
    path: Path
    #: Its counts and sizes are of all of them.
    info: GgufInfo


def is_path(name_or_path: str) -> bool:
    """Whether the user means a file in place rather than a name in the store."""
    return name_or_path.casefold().endswith(".gguf") or os.sep in name_or_path


class ModelStore:
    """The model files under ``root``, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self) -> list[ModelFile]:
        """Models in the store, by name. A damaged file is logged and left out.

        Raises ConfigError (the store cannot be read).
        """
        found = []
        for path in self._files():
            try:
                found.append(self._in_store(path))
            except ModelFileInvalid as error:
                log.warning("%s", error)
        return sorted(found, key=lambda model: model.name.casefold())

    def resolve(self, name_or_path: str) -> ModelFile:
        """Find a model without fetching anything.

        Raises ModelFileInvalid (the file is missing or damaged), ModelNotFound (unknown name),
        ConfigError (the store cannot be read).
        """
        if is_path(name_or_path):
            path = Path(os.path.expanduser(name_or_path))
            if path.suffix != ".gguf" and not path.exists() and HubName.parse(name_or_path):
                raise ModelFileInvalid(
                    f"there is no file {path}; if you mean the hub's model of that name, fetch it "
                    f"first: hearth models pull {name_or_path}"
                )
            return _checked(path)
        if spec := known(name_or_path):
            path = self.root / spec.file_name
            if path not in self._files():
                raise ModelFileInvalid(
                    f"the model {spec.name} has not been fetched: run `hearth models pull "
                    f"{spec.aliases[0]}`"
                )
            if not is_genuine(path, spec):
                raise ModelFileInvalid(
                    f"the model file {path} is truncated or altered: run `hearth models pull "
                    f"{spec.aliases[0]}`"
                )
            return self._in_store(path)
        wanted = name_or_path.casefold()
        for path in self._files():
            if wanted in (model_name(path).casefold(), stem_of(path).casefold()):
                return self._in_store(path)
        raise ModelNotFound(
            f"no model {name_or_path!r} here: `hearth models list` shows those there are; "
            "a path to a .gguf file works too"
        )

    def ensure(self, name_or_path: str, progress: Progress) -> ModelFile:
        """As ``resolve``, but a catalogue model that is missing or altered is fetched first.

        Blocks. Raises DownloadFailed as well.
        """
        spec = None if is_path(name_or_path) else known(name_or_path)
        if spec is None:
            return self.resolve(name_or_path)
        return self._in_store(demo.fetch(spec, self.root, progress))

    def pull(self, name: str, progress: Progress) -> ModelFile:
        """Fetch a catalogue model, or a hub's, into the store unless it is there.

        Blocks. Raises DownloadFailed, ModelNotFound (there is no such model), ModelFileInvalid
        (what the hub has of that name is no model), ConfigError (of what the environment says).
        """
        if known(name) is not None:
            return self.ensure(name, progress)
        hub_name = HubName.parse(name)
        if hub_name is None:
            raise ModelNotFound(
                f"{name!r} names no model to fetch: give `demo`, or OWNER/REPO:QUANTISATION as on "
                "huggingface.co, such as Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q4_K_M. A GGUF file works "
                "from where it is: hearth chat --model /path/to/model.gguf"
            )
        with hub.client() as http:
            paths = download.fetch(http, hub.find(http, hub_name), self.root, progress)
        return self._in_store(paths[0])

    def _files(self) -> Sequence[Path]:
        try:
            names = os.listdir(self.root)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(
                f"the model store {self.root} cannot be read: {error.strerror}; give this user the "
                "right, or another folder (HEARTH_MODELS)"
            ) from None
        paths = sorted(self.root / name for name in names if name.casefold().endswith(".gguf"))
        return [path for path in paths if path == parts_of(path)[0]]

    def _in_store(self, path: Path) -> ModelFile:
        spec = _spec_of(path)
        if spec is None:
            return _checked(path)
        return ModelFile(spec.name, spec.aliases, path, check_gguf(path))


def _checked(path: Path) -> ModelFile:
    """The model of which this is a file. Raises ModelFileInvalid."""
    paths = parts_of(path)
    infos = [check_gguf(each) for each in paths]
    info = replace(
        infos[0],
        parameters=sum(each.parameters for each in infos),
        size_bytes=sum(each.size_bytes for each in infos),
    )
    return ModelFile(model_name(path), (), paths[0], info)


def _spec_of(path: Path) -> ModelSpec | None:
    return next((spec for spec in CATALOGUE if spec.file_name == path.name), None)
