"""The model store: a directory of GGUF files, found by name."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.store import demo
from models.store.catalogue import CATALOGUE, ModelSpec, known
from models.store.demo import Progress
from models.store.files import is_genuine
from models.store.gguf_file import GgufInfo, check_gguf
from overlay.errors import ConfigError, ModelFileInvalid, ModelNotFound
from overlay.limits import NAME_CHARS_MAX

log = logging.getLogger(__name__)

#: ``-Q4_K_M``, ``.Q8_0``, ``-UD-IQ2_XXS``, ``_bf16`` and so on at the end of a file's stem.
_QUANTISATION: Final = re.compile(
    r"[-._](?:UD-)?(?:I?Q\d(?:_[01]|_K)?(?:_[A-Z]{1,3})?|TQ\d_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file on this machine whose header has been checked."""

    name: str
    aliases: tuple[str, ...]
    path: Path
    info: GgufInfo


def model_name(path: Path) -> str:
    """What a file's model is called: its stem without the quantisation, fit to cross the wire."""
    name = _QUANTISATION.sub("", path.stem) or path.stem
    return "".join(char if char.isprintable() else "_" for char in name)[:NAME_CHARS_MAX]


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
            return ModelFile(model_name(path), (), path, check_gguf(path))
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
            if wanted in (model_name(path).casefold(), path.stem.casefold()):
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
        return sorted(self.root / name for name in names if name.endswith(".gguf"))

    def _in_store(self, path: Path) -> ModelFile:
        spec = _spec_of(path)
        if spec is None:
            return ModelFile(model_name(path), (), path, check_gguf(path))
        return ModelFile(spec.name, spec.aliases, path, check_gguf(path))


def _spec_of(path: Path) -> ModelSpec | None:
    return next((spec for spec in CATALOGUE if spec.file_name == path.name), None)
