"""What the name of a model's file tells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from overlay.limits import NAME_CHARS_MAX

#: ``-Q4_K_M``, ``.Q8_0``, ``-UD-IQ2_XXS``, ``_bf16`` and so on at the end of a file's stem.
_QUANTISATION: Final = re.compile(
    r"[-._]((?:UD-)?(?:I?Q\d(?:_[01]|_K)?(?:_[A-Z]{1,3})?|TQ\d_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32))$",
    re.IGNORECASE,
)


def model_name(path: Path) -> str:
    """What a file's model is called: its stem without the quantisation, fit to cross the wire."""
    name = _QUANTISATION.sub("", path.stem) or path.stem
    return "".join(char if char.isprintable() else "_" for char in name)[:NAME_CHARS_MAX]


def quantisation_of(stem: str) -> str:
    """How its weights are stored, as the file's name has it: ``Q4_K_M``; "" if it does not."""
    found = _QUANTISATION.search(stem)
    return found[1] if found else ""
