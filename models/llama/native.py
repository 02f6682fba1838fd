"""llama.cpp itself, through `llama_cpp`'s low-level API: one model, one context, one batch."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from typing import Any, Final

import llama_cpp
import numpy as np

from models.engine import Sampling
from models.llama.backend import Outcome, Sampler, Slice
from models.llama.loaded_model import (
    LoadedModel,
    expect_complaints,
    first_complaint,
    forget_complaints,
)
from models.llama.sampling import ChainSampler
from overlay.errors import ModelFileInvalid

#: Tokens that one decode may compute, if there are as many cells.
BATCH_TOKENS: Final = 512
#: Tokens whose state is saved as one: small enough that it is restored in a fraction of a step, and
#: that the cells which this takes beyond those that are wanted do not matter.
PIECE_TOKENS: Final = 128

_DECODE_FULL, _DECODE_ABORTED = 1, 2
# llama.cpp polls this C function with the flag's address. In Python it would cost a millisecond per
# decode, for every graph node would have to take the interpreter's lock. strlen(b"") is 0.
_POLL = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)


class NativeBackend:
    """`models.llama.backend.Backend` over a llama.cpp context."""

    def __init__(self, model: LoadedModel, *, cells: int, threads: int) -> None:
        """Raises ModelFileInvalid if llama.cpp cannot make a context of that size."""
        self._model = model
        self._abort = ctypes.create_string_buffer(2)
        # One is left over, to hold what is saved or restored meanwhile.
        self.sequences = model.choose_sequences(cells) - 1
        #: What to add to a sequence's number for the sequences of llama.cpp that stand for it.
        self._twins = [copy * self.sequences for copy in range(model.twins)]
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        self._scratch = len(self._twins) * self.sequences
        params.n_seq_max = params.n_outputs_max = self._scratch + 1
        params.kv_unified = True
        params.swa_full = True
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.n_threads = params.n_threads_batch = threads
        params.abort_callback = _POLL
        params.abort_callback_data = ctypes.addressof(self._abort)
        self._context: Any = llama_cpp.llama_init_from_model(model.pointer, params)
        if not self._context:
            raise ModelFileInvalid(
                f"llama.cpp cannot make a context of {cells} cells: {first_complaint()}."
            )
        self._memory: Any = llama_cpp.llama_get_memory(self._context)
        self.cells: int = llama_cpp.llama_n_ctx(self._context)
        # Fewer, if so few cells were asked for; of those llama.cpp makes some more.
        self.batch_tokens: int = llama_cpp.llama_n_batch(self._context)
        # llama.cpp saves only what the window of a sequence's last token shows.
        self.piece_tokens = min(PIECE_TOKENS, model.window or PIECE_TOKENS)
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(model.vocab)
        self._pieces: dict[int, bytes] = {}
        self._rows: list[int] = []
        self._batch = _Batch(self.batch_tokens, self._twins)

    def decode(self, slices: Sequence[Slice]) -> Outcome:
        self._abort[0] = b"\0"
        forget_complaints()
        self._rows = self._batch.fill(slices)
        code = llama_cpp.llama_decode(self._context, self._batch.struct)
        if code == 0:
            return Outcome.DONE
        if code == _DECODE_FULL:
            return Outcome.FULL
        return Outcome.ABORTED if code == _DECODE_ABORTED else Outcome.FAILED

    @property
    def state_settings(self) -> str:
        """What besides the weights gives a saved state its form."""
        return (
            f"llama-cpp-python {llama_cpp.__version__} {platform.machine()} f16 flash-attention "
            f"swa-full twins={len(self._twins)}"
        )

    def complaint(self) -> str:
        return first_complaint()

    def abort(self) -> None:
        """Break off the decode under way, if any; called from another thread.

        Not where that would cost all of its requests everything that they have computed.
        """
        if self.divisible:
            expect_complaints()
            self._abort[0] = b"\1"

    @property
    def divisible(self) -> bool:
        return self._model.needs.divisible

    @property
    def aborted(self) -> bool:
        return self._abort[0] != b"\0"

    def share(self, source: int, target: int, start: int, end: int) -> None:
        for twin in self._twins:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target + twin, start, end)

    def copy(self, source: int, target: int) -> None:
        self.share(source, target, -1, -1)

    def forget(self, sequence: int, start: int, end: int | None) -> None:
        stop = -1 if end is None else end
        for twin in self._twins:
            llama_cpp.llama_memory_seq_rm(self._memory, sequence + twin, start, stop)

    def save(self, sequence: int, start: int, end: int) -> bytes:
        memory, scratch = self._memory, self._scratch
        llama_cpp.llama_memory_seq_cp(memory, sequence, scratch, start, end)
        size = llama_cpp.llama_state_seq_get_size(self._context, scratch)
        state = (ctypes.c_uint8 * size)()
        written = llama_cpp.llama_state_seq_get_data(self._context, state, size, scratch)
        llama_cpp.llama_memory_seq_rm(memory, scratch, -1, -1)
        return bytes(state) if written == size else b""

    def restore(self, state: bytes, sequence: int, start: int, end: int) -> bool:
        if not state:
            return False
        size, scratch = len(state), self._scratch
        data = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        read = llama_cpp.llama_state_seq_set_data(self._context, data, size, scratch)
        if read:
            self.share(scratch, sequence, start, end)
        llama_cpp.llama_memory_seq_rm(self._memory, scratch, -1, -1)
        return bool(read)

    def sampler(self, sampling: Sampling, generated: Sequence[int]) -> Sampler:
        return ChainSampler(
            self._context,
            self._model.vocab,
            sampling,
            generated,
            rows=self._rows_now,
            piece=self.piece,
        )

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
    """llama.cpp's batch over numpy arrays, filled without a Python loop over tokens.

    Each token goes to its sequence plus each of ``twins``.
    """

    def __init__(self, capacity: int, twins: Sequence[int]) -> None:
        self._twins = np.array(twins, np.int32)
        self._token = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int32)
        self._count = np.full(capacity, len(twins), np.int32)
        self._sequence = np.zeros((capacity, len(twins)), np.int32)
        self._logits = np.zeros(capacity, np.int8)
        base = self._sequence.ctypes.data
        self._sequence_at = base + 4 * len(twins) * np.arange(capacity, dtype=np.uint64)
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
            self._sequence[at:end] = part.sequence + self._twins
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


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
