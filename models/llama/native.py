"""llama.cpp itself, through `llama_cpp`'s low-level API: one model, one context, one batch."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import llama_cpp
import numpy as np
import psutil

from models.engine import Sampling
from models.llama.backend import Outcome, Sampler, Slice
from models.llama.sampling import ChainSampler
from overlay.errors import ModelFileInvalid

#: llama.cpp's own limit on sequences in one context.
SEQUENCES_MAX: Final = 256
#: Each sequence costs a row of logits (600 KB for a large vocabulary), so there are only as many as
#: conversations of this many tokens fit into the cells, but enough for all that run.
SEQUENCE_TOKENS: Final = 128
SEQUENCES_MIN: Final = 64
#: Tokens that one decode may compute.
BATCH_TOKENS: Final = 512
#: KV cells unless told otherwise: a few conversations side by side.
CELLS_DEFAULT: Final = 16_384
#: At most this share of the free memory goes to the KV cache by default.
MEMORY_SHARE: Final = 0.25

_BYTES_PER_VALUE = 2  # K and V are kept in half precision
_LOG_ERROR = 4
_DECODE_FULL, _DECODE_ABORTED = 1, 2
# llama.cpp polls this C function with the flag's address. In Python it would cost a millisecond per
# decode, for every graph node would have to take the interpreter's lock. strlen(b"") is 0.
_POLL = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)


#: What llama.cpp complained about lately.
_complaints: deque[str] = deque(maxlen=20)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _data: ctypes.c_void_p) -> None:
    if level == _LOG_ERROR:
        line = text.decode("utf-8", "replace")
        _complaints.append(line.strip())
        sys.stderr.write(line)
        sys.stderr.flush()


class LoadedModel:
    """A model file in memory; ``pointer`` and ``vocab`` are llama.cpp's handles."""

    def __init__(self, path: Path, progress: Callable[[float], None]) -> None:
        """Raises ModelFileInvalid."""
        _check_header(path)
        _complaints.clear()
        llama_cpp.llama_log_set(_log, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()

        def report(share: float, _data: ctypes.c_void_p) -> bool:
            progress(share)
            return True

        params.progress_callback = llama_cpp.llama_progress_callback(report)
        self.pointer: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise ModelFileInvalid(f"llama.cpp cannot load {path}: {_first_complaint()}.")
        if llama_cpp.llama_model_is_recurrent(self.pointer) or llama_cpp.llama_model_is_hybrid(
            self.pointer
        ):
            raise ModelFileInvalid(
                f"{path} keeps a recurrent state, which cannot be shared between prompts: "
                "take a model with attention only."
            )
        if not llama_cpp.llama_model_has_decoder(self.pointer):
            raise ModelFileInvalid(f"{path} is no model that generates text.")
        self.vocab: Any = llama_cpp.llama_model_get_vocab(self.pointer)
        self.trained_context: int = llama_cpp.llama_model_n_ctx_train(self.pointer)

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

    def cell_bytes(self) -> int:
        """Memory of one KV cell, all layers."""
        heads = max(1, llama_cpp.llama_model_n_head(self.pointer))
        kv_heads = llama_cpp.llama_model_n_head_kv(self.pointer)
        head_size = llama_cpp.llama_model_n_embd(self.pointer) // heads
        layers = llama_cpp.llama_model_n_layer(self.pointer)
        return int(layers * 2 * kv_heads * head_size * _BYTES_PER_VALUE)

    def choose_cells(self) -> int:
        """As many KV cells as are useful and the machine can spare."""
        useful = min(CELLS_DEFAULT, 4 * self.trained_context)
        spare = int(psutil.virtual_memory().available * MEMORY_SHARE) // max(1, self.cell_bytes())
        return max(512, min(useful, spare - spare % 256))


class NativeBackend:
    """`models.llama.backend.Backend` over a llama.cpp context."""

    def __init__(self, model: LoadedModel, *, cells: int, threads: int) -> None:
        """Raises ModelFileInvalid if llama.cpp cannot make a context of that size."""
        self._model = model
        self._abort = ctypes.create_string_buffer(2)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = min(SEQUENCES_MAX, max(SEQUENCES_MIN, cells // SEQUENCE_TOKENS))
        params.n_outputs_max = params.n_seq_max
        params.kv_unified = True
        params.swa_full = True
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.n_threads = params.n_threads_batch = threads
        params.abort_callback = _POLL
        params.abort_callback_data = ctypes.addressof(self._abort)
        self._context: Any = llama_cpp.llama_init_from_model(model.pointer, params)
        if not self._context:
            raise ModelFileInvalid(
                f"llama.cpp cannot make a context of {cells} cells: {_first_complaint()}."
            )
        self._memory: Any = llama_cpp.llama_get_memory(self._context)
        self.cells: int = llama_cpp.llama_n_ctx(self._context)
        self.sequences: int = llama_cpp.llama_n_seq_max(self._context)
        self.batch_tokens = BATCH_TOKENS
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(model.vocab)
        self._pieces: dict[int, bytes] = {}
        self._rows: list[int] = []
        self._batch = _Batch(BATCH_TOKENS)

    def decode(self, slices: Sequence[Slice]) -> Outcome:
        self._abort[0] = b"\0"
        self._rows = self._batch.fill(slices)
        code = llama_cpp.llama_decode(self._context, self._batch.struct)
        if code == 0:
            return Outcome.DONE
        if code == _DECODE_FULL:
            return Outcome.FULL
        return Outcome.ABORTED if code == _DECODE_ABORTED else Outcome.FAILED

    def abort(self) -> None:
        """Break off the decode under way, if any; called from another thread."""
        self._abort[0] = b"\1"

    def share(self, source: int, target: int, start: int, end: int) -> None:
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, start, end)

    def forget(self, sequence: int, start: int, end: int | None) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1 if end is None else end)

    def sampler(self, sampling: Sampling, generated: Sequence[int]) -> Sampler:
        return ChainSampler(self._context, self.vocabulary, sampling, generated, self._rows_now)

    def piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = token_piece(self._model.vocab, token)
        return piece

    def ends_generation(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self._model.vocab, token))

    def _rows_now(self) -> list[int]:
        return self._rows


class _Batch:
    """llama.cpp's batch over numpy arrays, filled without a Python loop over tokens."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int32)
        self._count = np.ones(capacity, np.int32)
        self._sequence = np.zeros(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        base = self._sequence.ctypes.data
        self._sequence_at = base + 4 * np.arange(capacity, dtype=np.uint64)
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, ctypes.c_int32),
            pos=_pointer(self._position, ctypes.c_int32),
            n_seq_id=_pointer(self._count, ctypes.c_int32),
            seq_id=_pointer(self._sequence_at, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    def fill(self, slices: Sequence[Slice]) -> list[int]:
        """Returns, for each slice, the index of its last token."""
        rows, at = [], 0
        for part in slices:
            end = at + len(part.tokens)
            self._token[at:end] = part.tokens
            self._position[at:end] = np.arange(part.start, part.start + len(part.tokens))
            self._sequence[at:end] = part.sequence
            self._logits[at:end] = 0
            self._logits[end - 1] = part.logits
            rows.append(end - 1)
            at = end
        self.struct.n_tokens = at
        return rows


def token_piece(vocab: Any, token: int) -> bytes:
    """The bytes that a token stands for in an answer."""
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = llama_cpp.llama_token_to_piece(vocab, token, buffer, size, 0, False)
        if length >= 0:
            return buffer.raw[:length]
        size = -length


def _first_complaint() -> str:
    """The cause: what llama.cpp says after it are consequences. Without its function names."""
    line = next((line for line in _complaints if line), "f: it does not say why")
    said = line.split(": ", 1)[-1].rstrip(".")
    return said.removeprefix("error loading model: ")


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


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
