"""What a text that others are shown may contain: nothing that could drive their terminals."""

from __future__ import annotations

from typing import Final
from unicodedata import category

#: Unicode's categories of what is not shown: controls, formats, surrogates, private use, and
#: separators other than the space.
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"})


def is_printable(text: str) -> bool:
    """Whether each character may be shown to people.

    Unlike `str.isprintable`, it lets pass what Unicode assigns later: nodes run on Pythons of
    different ages, and one must not cut the other because of the letters in its name.
    """
    return text.isprintable() or all(
        char == " " or category(char) not in _UNPRINTABLE for char in text
    )
