"""A model file in memory, and what llama.cpp says about it: kind, words, and needs of memory."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import llama_cpp
import psutil

from models.llama.fingerprint import file_identity, model_digest
from models.store.names import parts_of
from overlay.errors import ModelFileInvalid

#: llama.cpp's own limit on sequences in one context.
SEQUENCES_MAX: Final = 256
#: Each sequence costs a row of logits (600 KB for a large vocabulary), so there are only as many as
#: conversations of this many tokens fit into the cells, but enough for all that run.
SEQUENCE_TOKENS: Final = 128
SEQUENCES_MIN: Final = 64
#: Where each sequence has a state of its own, from 10 to 200 MB: as many as are useful, and as must
#: be. They take half of the memory at most, for attention needs some too.
STATES_MAX: Final = 16
STATES_MIN: Final = 2
STATES_SHARE: Final = 0.5
#: KV cells unless told otherwise: a few conversations side by side.
CELLS_DEFAULT: Final = 16_384
#: At most this share of the free memory goes to the KV cache by default.
MEMORY_SHARE: Final = 0.25

_POSITIONS_MAX = 1 << 30  # of what llama.cpp can number
_LOG_ERROR = 4

#: What llama.cpp complained about lately.
_complaints: deque[str] = deque(maxlen=20)
#: Set while it complains of what it was told to do.
_expected = threading.Event()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _data: ctypes.c_void_p) -> None:
    if level == _LOG_ERROR and not _expected.is_set():
        line = text.decode("utf-8", "replace")
        _complaints.append(line.strip())
        sys.stderr.write(line)
        sys.stderr.flush()


def forget_complaints() -> None:
    """What llama.cpp complains about from now on is about something else."""
    _complaints.clear()
    _expected.clear()


def expect_complaints() -> None:
    """Until they are forgotten, they tell nothing: a decode is broken off."""
    _expected.set()


def first_complaint() -> str:
    """The cause: what llama.cpp says after it are consequences. Without its function names."""
    line = next((line for line in _complaints if line), "f: it does not say why")
    said = line.split(": ", 1)[-1].rstrip(".")
    return said.removeprefix("error loading model: ")


class MemoryNeeds(NamedTuple):
    """What the memory of a model's context is like, in all layers together."""

    #: One more token in a sequence.
    cell_bytes: int
    #: A sequence, however short: its recurrent state, and what little llama.cpp notes besides.
    sequence_bytes: int
    #: A sequence can be cut at any token, and so be shared up to any token.
    divisible: bool


class LoadedModel:
    """A model file in memory; ``pointer`` and ``vocab`` are llama.cpp's handles."""

    def __init__(self, path: Path, progress: Callable[[float], None]) -> None:
        """Raises ModelFileInvalid."""
        _check_header(path)
        self._path = path
        self._files = [(each, file_identity(each)) for each in parts_of(path)]
        forget_complaints()
        llama_cpp.llama_log_set(_log, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()

        def report(share: float, _data: ctypes.c_void_p) -> bool:
            progress(share)
            return True

        params.progress_callback = llama_cpp.llama_progress_callback(report)
        self.pointer: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise ModelFileInvalid(f"llama.cpp cannot load {path}: {first_complaint()}.")
        encodes = llama_cpp.llama_model_has_encoder(self.pointer)
        if encodes or not llama_cpp.llama_model_has_decoder(self.pointer):
            raise ModelFileInvalid(f"{path} is no model that continues a text: take another.")
        self.vocab: Any = llama_cpp.llama_model_get_vocab(self.pointer)
        self.trained_context: int = llama_cpp.llama_model_n_ctx_train(self.pointer)
        #: How many tokens back layers with a sliding window see; 0: all layers see all.
        self.window: int = llama_cpp.llama_model_n_swa(self.pointer)

    def digest(self, folder: Path) -> bytes | None:
        """SHA-256 of the file, remembered in ``folder``; None: it has changed since it was loaded.

        Of several files, that of their digests. Raises OSError if one cannot be read.
        """
        digests = []
        for path, identity in self._files:
            digest = model_digest(path, folder, identity)
            if digest is None:
                return None
            digests.append(digest)
        return digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()

    def description(self) -> str:
        """General name, parameters and quantisation, as far as the file tells."""
        count = llama_cpp.llama_model_n_params(self.pointer)
        size = f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
        quantisation = llama_cpp.llama_ftype_name(llama_cpp.llama_model_ftype(self.pointer))
        known = quantisation.decode().removeprefix("(guessed) ") if quantisation else ""
        name = self.metadata("general.name") or "unnamed"
        return ", ".join(filter(None, [name, f"{size} parameters", known]))

    def metadata(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(4096)
        size = llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None

    def chat_template(self) -> str | None:
        source = llama_cpp.llama_model_chat_template(self.pointer, None)
        return source.decode("utf-8", "replace") if source else None

    @cached_property
    def needs(self) -> MemoryNeeds:
        """Tried out with two tokens in a small context: true of any architecture.

        Raises ModelFileInvalid if the model cannot compute them.
        """
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = 32, 1
        params.n_batch = params.n_ubatch = 2
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        context = llama_cpp.llama_init_from_model(self.pointer, params)
        memory = llama_cpp.llama_get_memory(context) if context else None
        if not memory:
            raise ModelFileInvalid(
                f"llama.cpp cannot generate with {self._path}: {first_complaint()}."
            )
        token = (ctypes.c_int32 * 1)(0)
        sizes = []
        for _ in range(2):
            if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(token, 1)):
                raise ModelFileInvalid(
                    f"llama.cpp cannot generate with {self._path}: {first_complaint()}."
                )
            sizes.append(llama_cpp.llama_state_seq_get_size(context, 0))
        divisible = llama_cpp.llama_memory_seq_rm(memory, 0, 1, -1)
        llama_cpp.llama_free(context)
        cell_bytes = sizes[1] - sizes[0]
        return MemoryNeeds(cell_bytes, sizes[0] - cell_bytes, bool(divisible))

    @property
    def twins(self) -> int:
        """How many of llama.cpp's sequences each of ours needs.

        llama.cpp gives away cells that lie outside the sliding window of the one sequence that
        has them, though a prompt that parts from it earlier would need them. It never does so with
        cells of two sequences: so there each sequence has a twin, which is on all of its cells.
        """
        return 2 if self.window and self.needs.divisible else 1

    @cached_property
    def states(self) -> int:
        """How many sequences the machine can spare, if each has a state of its own."""
        spare = int(_spare_bytes() * STATES_SHARE) // max(1, self.needs.sequence_bytes)
        return max(STATES_MIN, min(STATES_MAX, spare))

    def choose_cells(self) -> int:
        """As many KV cells as are useful and the machine can spare."""
        cell_bytes, sequence_bytes, divisible = self.needs
        spare = _spare_bytes()
        if not divisible:
            spare -= self.states * sequence_bytes
            if cell_bytes == 0:  # tokens cost nothing: as many as all states can stand for
                return min(_POSITIONS_MAX, self.states * self.trained_context)
        useful = min(CELLS_DEFAULT, 4 * self.trained_context)
        affordable = spare // max(1, cell_bytes)
        return max(512, min(useful, affordable - affordable % 256))

    def check_cells(self, cells: int) -> None:
        """Raises ModelFileInvalid for more KV cells than fit into all of the machine's memory.

        llama.cpp would try for a minute, at the cost of everything else that runs here.
        """
        most = psutil.virtual_memory().total // max(1, self.needs.cell_bytes)
        if cells > most:
            raise ModelFileInvalid(
                f"{cells:,} KV cells do not fit into this machine's memory, which has room for "
                f"{most:,} at most: choose far fewer, or let the engine choose."
            )

    def choose_sequences(self, cells: int) -> int:
        """How many prompts and answers a context of so many cells can tell apart."""
        if not self.needs.divisible:
            return self.states
        most = max(self.twins * SEQUENCES_MIN, cells // SEQUENCE_TOKENS)
        return min(SEQUENCES_MAX, most) // self.twins


def _spare_bytes() -> int:
    return int(psutil.virtual_memory().available * MEMORY_SHARE)


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ModelFileInvalid(f"There is no model file at {path}.") from None
    except OSError as error:
        raise ModelFileInvalid(f"{path} cannot be read: {error.strerror}.") from None
    if magic != b"GGUF":
        raise ModelFileInvalid(f"{path} is no GGUF model file.")
