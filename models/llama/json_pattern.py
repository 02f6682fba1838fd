r"""Patterns of JSON schemas, put so that all they match is the inside of a JSON string.

A pattern is about a string, and the converter takes it for one about the string's JSON: its dot
lets a quote through, which ends the string too early. So characters are written here as JSON spells
them, and sets lose those that it spells otherwise than as themselves: the answer may be less than
the pattern allows, and never more. Escapes that the converter does not know, such as ``\d``, become
sets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

#: Code points, the last included.
_Range = tuple[int, int]

_ESCAPE: Final = r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)"
#: A pattern in pieces: an escape, a set, a repetition, or any one character.
PIECE: Final = re.compile(
    rf"{_ESCAPE}|\[(?P<negated>\^?)(?P<set>(?:\\.|[^\]\\])*)\]"
    r"|\{(?P<times>[0-9]{0,4}(?:,[0-9]{0,4})?)\}|.",
    re.DOTALL,
)
_MEMBER: Final = re.compile(rf"{_ESCAPE}|.", re.DOTALL)
#: What no JSON string holds as itself, and DEL, which no answer needs.
_SPELT: Final = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F))
_CLASSES: Final[dict[str, tuple[_Range, ...]]] = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": ((0x09, 0x0D), (0x20, 0x20)),
}
_CONTROLS: Final = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
#: Besides letters and digits, these mean nothing but themselves to the converter.
_PLAIN: Final = " _-,:;/@#%&'=<>!~`"


def json_pattern(pattern: str) -> str:
    """The pattern for the converter. Raises ValueError with what is not supported."""
    if len(pattern) < 2 or pattern[0] != "^" or pattern[-1] != "$":
        raise ValueError('Pattern must start with "^" and end with "$"')
    inside = "".join(_written(piece) for piece in PIECE.finditer(pattern[1:-1]))
    # The converter would put the quotes around the first and the last alternative alone.
    return f"^({inside})$" if "|" in inside else f"^{inside}$"


def _written(piece: re.Match[str]) -> str:
    text = piece.group()
    if text == ".":
        return _set((), negated=True)
    if piece["set"] is not None:
        return _set(_members(piece["set"]), negated=bool(piece["negated"]))
    if piece["times"] is not None or text in "()|*+?":
        return text
    if text in "^$":
        raise ValueError("a pattern with an anchor within")
    name = text[1:]
    if name.lower() in _CLASSES:
        return _set(_CLASSES[name.lower()], negated=name.isupper())
    spelt = json.dumps(chr(_code(text)), ensure_ascii=False)[1:-1]
    written = "".join(
        char if char.isalnum() or char in _PLAIN else _set_of((ord(char), ord(char)))
        for char in spelt
    )
    return written if len(spelt) == 1 else f"({written})"


def _members(inside: str) -> Iterator[_Range]:
    """What is between the brackets of a set."""
    members = [member.group() for member in _MEMBER.finditer(inside)]
    while members:
        first = members.pop(0)
        if first[1:] in _CLASSES:
            yield from _CLASSES[first[1:]]
        elif len(members) > 1 and members[0] == "-" and members[1][1:] not in _CLASSES:
            members.pop(0)
            yield _code(first), _code(members.pop(0))
        else:
            yield _code(first), _code(first)


def _code(text: str) -> int:
    """The code point that a character or an escape stands for."""
    name = text[1:]
    if len(name) > 1:
        code = int(name[1:], 16)
    elif name in _CONTROLS:
        code = _CONTROLS[name]
    elif name.isalnum() or text == "\\":
        raise ValueError(f"a pattern with {text}")
    else:
        code = ord(name or text)
    if 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"a pattern with half a character, {text}")
    return code


def _set(ranges: Iterable[_Range], *, negated: bool) -> str:
    if negated:
        return _set_of(*ranges, *_SPELT, negated=True)
    for low, high in _SPELT:
        ranges = [
            part
            for start, end in ranges
            for part in ((start, min(end, low - 1)), (max(start, high + 1), end))
            if part[0] <= part[1]
        ]
    if not ranges:
        raise ValueError("a pattern with a set of which no character may stand in a JSON string")
    return _set_of(*ranges)


def _set_of(*ranges: _Range, negated: bool = False) -> str:
    inside = "".join(
        _hex(low) if low == high else f"{_hex(low)}-{_hex(high)}" for low, high in ranges
    )
    return f"[{'^' * negated}{inside}]"


def _hex(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
