"""What a GGUF file says about itself, read from its header alone.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader trusts nothing:
every count and length is bounded, and a file that lies raises ModelFileInvalid with one sentence.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from overlay.errors import ModelFileInvalid

#: Metadata entries. Real files have 20 to 60.
_ENTRIES_MAX: Final = 4096
#: Tensors. The largest mixture-of-experts models have a few thousand.
_TENSORS_MAX: Final = 65_536
#: Bytes of one string. The longest in real files are chat templates of about 20 KB.
_STRING_BYTES_MAX: Final = 1 << 20
#: Bytes of a string that are kept: enough for any name; the longest are chat templates.
_STRING_BYTES_KEPT: Final = 1024
#: Bytes of a key or of a tensor's name. Real ones stay below 100.
_NAME_BYTES_MAX: Final = 1024
#: Elements of one array. Vocabularies reach 260k tokens with 520k merges.
_ELEMENTS_MAX: Final = 4 << 20
#: Weights of one tensor; far above any real one, so that sizes stay meaningful.
_WEIGHTS_MAX: Final = 1 << 50
_DIMENSIONS_MAX: Final = 4
_ALIGNMENT_MAX: Final = 1 << 20
#: Read ahead, so that walking a vocabulary needs few system calls.
_WINDOW_BYTES: Final = 1 << 18

_STRING: Final = 8
_ARRAY: Final = 9
#: Value types of fixed size: id -> struct format.
_SCALARS: Final = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}

#: Tensor types: id -> (weights per block, bytes per block).
BLOCK_SIZES: Final = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}

#: ``general.file_type`` -> the name that people know.
FILE_TYPES: Final = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
    39: "NVFP4",
    40: "Q1_0",
}

_Value = int | float | bool | str | None


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """A model file's header, as far as Hearth needs it. Absent strings are empty, counts 0."""

    architecture: str
    #: Tokens that the model was trained for.
    context_length: int
    #: ``Q4_K_M`` and the like.
    quantisation: str
    #: Weights of all tensors.
    parameters: int
    #: Size of the file.
    size_bytes: int
    #: Where the last tensor ends: a file shorter than this is truncated.
    end_bytes: int


def check_gguf(path: Path) -> GgufInfo:
    """Read the header and see that the file is whole. Raises ModelFileInvalid."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileInvalid(f"{path} is not a model file: it is no regular file")
        with path.open("rb", buffering=0) as file:
            info = _Reader(path, file, os.fstat(file.fileno()).st_size).read()
    except FileNotFoundError:
        raise ModelFileInvalid(f"there is no model file {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelFileInvalid(f"the model file {path} cannot be read: {reason}") from None
    if info.size_bytes < info.end_bytes:
        raise ModelFileInvalid(
            f"the model file {path} is truncated: {info.end_bytes - info.size_bytes:,} of "
            f"{info.end_bytes:,} bytes are missing; fetch it again"
        )
    return info


class _Reader:
    """Walks the header through a window of the file; refuses to pass its end."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path = path
        self._file = file
        self._size = size
        self._window = b""
        #: File offset of the window, and the read position within it.
        self._base = 0
        self._at = 0

    def read(self) -> GgufInfo:
        magic = self._take(4) if self._size >= 4 else b""
        if magic != b"GGUF":
            raise ModelFileInvalid(f"{self._path} is no GGUF model file")
        version = self._number("<I")
        if version not in (2, 3):
            raise ModelFileInvalid(
                f"{self._path} has GGUF version {version}, but Hearth reads 2 and 3"
            )
        tensors = self._count("<Q", _TENSORS_MAX, "tensors")
        entries = self._count("<Q", _ENTRIES_MAX, "metadata entries")
        values: dict[str, _Value] = {}
        for _ in range(entries):
            key = self._string(_NAME_BYTES_MAX)
            values[key] = self._value(self._number("<I"))
        parameters, data_bytes = self._tensors(tensors)

        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= _ALIGNMENT_MAX:
            raise self._broken(f"an alignment of {alignment}")
        header_bytes = -(-self._position() // alignment) * alignment
        architecture = _text(values, "general.architecture")
        return GgufInfo(
            architecture=architecture,
            context_length=_whole(values, f"{architecture}.context_length"),
            quantisation=FILE_TYPES.get(_whole(values, "general.file_type", -1), ""),
            parameters=parameters,
            size_bytes=self._size,
            end_bytes=header_bytes + data_bytes if tensors else self._position(),
        )

    def _tensors(self, count: int) -> tuple[int, int]:
        """Weights in all tensors, and where the last one ends, counted from the data's start."""
        parameters = end = 0
        for _ in range(count):
            self._skip(self._count("<Q", _NAME_BYTES_MAX, "bytes of a tensor's name"))
            weights = 1
            for _ in range(self._count("<I", _DIMENSIONS_MAX, "dimensions of a tensor")):
                weights *= self._number("<Q")
            if weights > _WEIGHTS_MAX:
                raise self._broken(f"a tensor of {weights} weights")
            kind = self._number("<I")
            offset = self._number("<Q")
            # A type that we do not know yet still begins at its offset.
            per_block, block_bytes = BLOCK_SIZES.get(kind, (1, 0))
            parameters += weights
            end = max(end, offset + -(-weights // per_block) * block_bytes)
        return parameters, end

    def _value(self, kind: int) -> _Value:
        """One metadata value; arrays are walked over and given as None."""
        if kind == _STRING:
            return self._string(_STRING_BYTES_MAX)
        if kind == _ARRAY:
            self._skip_array(self._number("<I"))
            return None
        if kind not in _SCALARS:
            raise self._broken(f"a metadata value of type {kind}")
        layout = _SCALARS[kind]
        value: int | float | bool = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return value

    def _skip_array(self, kind: int) -> None:
        count = self._count("<Q", _ELEMENTS_MAX, "elements of an array")
        if kind == _STRING:
            for _ in range(count):
                self._skip(self._count("<Q", _STRING_BYTES_MAX, "bytes of a string"))
        elif kind in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[kind]))
        else:
            raise self._broken(f"an array of values of type {kind}")

    def _string(self, bytes_max: int) -> str:
        length = self._count("<Q", bytes_max, "bytes of a string")
        kept = self._take(min(length, _STRING_BYTES_KEPT))
        self._skip(length - len(kept))
        return kept.decode("utf-8", "replace")

    def _count(self, layout: str, most: int, what: str) -> int:
        count = self._number(layout)
        if count > most:
            raise self._broken(f"{count} {what}")
        return count

    def _number(self, layout: str) -> int:
        number: int = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return number

    def _take(self, length: int) -> bytes:
        if self._at + length > len(self._window):
            self._refill(length)
        taken = self._window[self._at : self._at + length]
        self._at += length
        return taken

    def _skip(self, length: int) -> None:
        """Where that is beyond the file's end, the next read says so, or `check_gguf`."""
        self._at += length

    def _refill(self, length: int) -> None:
        self._base, self._at, self._window = self._position(), 0, b""
        self._file.seek(self._base)
        while len(self._window) < length:
            more = self._file.read(max(length - len(self._window), _WINDOW_BYTES))
            if not more:
                raise self._ends_early()
            self._window += more

    def _position(self) -> int:
        return self._base + self._at

    def _ends_early(self) -> ModelFileInvalid:
        return ModelFileInvalid(
            f"the model file {self._path} is truncated: it ends after {self._size:,} bytes, "
            "within its header; fetch it again"
        )

    def _broken(self, what: str) -> ModelFileInvalid:
        return ModelFileInvalid(f"the model file {self._path} is damaged: it claims {what}")


def _text(values: dict[str, _Value], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""


def _whole(values: dict[str, _Value], key: str, default: int = 0) -> int:
    value = values.get(key)
    return value if isinstance(value, int) and value >= 0 else default
