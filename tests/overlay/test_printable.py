from __future__ import annotations

from unicodedata import category

import pytest

from overlay.printable import is_printable

#: Nothing is there yet in Unicode; of what is new, older Pythons know as little.
UNASSIGNED = "\U0003fffd"


@pytest.mark.parametrize("text", ["", "Ada", "a b", "Zoë's 🦊", "人工知能", "नमस्ते", UNASSIGNED])
def test_what_people_write_is_printable(text: str) -> None:
    assert is_printable(text)


@pytest.mark.parametrize(
    "char", ["\n", "\x1b", "\x9b", "\u00a0", "\u2028", "\u202e", "\u200d", "\ue000", "\ud800"]
)
def test_what_could_drive_a_terminal_or_is_not_seen_is_not(char: str) -> None:
    assert not is_printable(char)
    assert not is_printable(f"Ada{char}")


def test_of_all_characters_only_unassigned_ones_are_judged_unlike_python_does() -> None:
    differ = {chr(code) for code in range(0x110000) if is_printable(chr(code))} - {
        chr(code) for code in range(0x110000) if chr(code).isprintable()
    }
    assert {category(char) for char in differ} == {"Cn"}
