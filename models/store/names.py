"""What the name of a model's file tells."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Final, TypeVar

from overlay.limits import NAME_CHARS_MAX
from overlay.printable import is_printable

#: ``-Q4_K_M``, ``.Q8_0``, ``-UD-IQ2_XXS``, ``_bf16`` and so on at the end of a file's stem.
_QUANTISATION: Final = re.compile(
    r"[-._]((?:UD-)?(?:I?Q\d(?:_[01]|_K)?(?:_[A-Z]{1,3})?"
    r"|TQ\d_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32))$",
    re.IGNORECASE,
)
#: What llama.cpp's tools add to each file of a model that they split.
_PART: Final = re.compile(
    r"(?P<whole>.+)-(?P<number>\d{5})-of-(?P<parts>\d{5})", re.DOTALL | re.ASCII
)
_AnyPath = TypeVar("_AnyPath", bound=PurePath)


def parts_of(path: _AnyPath) -> tuple[_AnyPath, ...]:
    """All files of the model that this one belongs to, in order; most models have one."""
    part = _part(path)
    if part is None:
        return (path,)
    parts = int(part["parts"])
    return tuple(
        path.with_name(f"{part['whole']}-{number:05}-of-{parts:05}{path.suffix}")
        for number in range(1, parts + 1)
    )


def stem_of(path: PurePath) -> str:
    """The name of a model's file, or what the names of its files have in common."""
    part = _part(path)
    return part["whole"] if part else path.stem


def _part(path: PurePath) -> re.Match[str] | None:
    part = _PART.fullmatch(path.stem)
    return part if part and 1 <= int(part["number"]) <= int(part["parts"]) else None


def model_name(path: Path) -> str:
    """What a file's model is called: its stem without the quantisation, fit to cross the wire."""
    stem = stem_of(path)
    name = _QUANTISATION.sub("", stem) or stem
    return "".join(char if is_printable(char) else "_" for char in name)[:NAME_CHARS_MAX]


def quantisation_of(path: PurePath) -> str:
    """How its weights are stored, as the file's name has it: ``Q4_K_M``; "" if it does not."""
    found = _QUANTISATION.search(stem_of(path))
    return found[1] if found else ""
