"""Text for people: safe to print, and short."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from datetime import datetime

#: C0 and C1 controls but newline and tab: a model's answer or a peer's name must not drive the
#: terminal.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """``text`` without control characters other than newline and tab."""
    return _CONTROLS.sub("", text)


def short_peer(peer_id: str) -> str:
    """``12D3…abcd``: enough of a PeerId to tell it from others."""
    peer_id = printable(peer_id)
    return f"{peer_id[:4]}…{peer_id[-4:]}" if len(peer_id) > 12 else peer_id


def short_request(request_id: str) -> str:
    """``5f0c7a1e``: what `hearth explain` takes, and enough to tell a request from others."""
    return printable(request_id)[:8]


def count(number: int, noun: str) -> str:
    """``1 hop``, ``2 hops``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(milliseconds: float) -> str:
    """``84 ms``, ``2.1 s``, ``3 min 20 s``."""
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def local_time(moment: str) -> str:
    """``2026-01-31 12:00``, in this machine's time zone, of a moment as RFC 3339 has it."""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}"


def size(number_of_bytes: float) -> str:
    """``512 B``, ``98.4 MB``: decimal, as download pages give it."""
    for unit in ("B", "kB", "MB", "GB"):
        if number_of_bytes < 1000:
            return f"{number_of_bytes:.0f} B" if unit == "B" else f"{number_of_bytes:.1f} {unit}"
        number_of_bytes /= 1000
    return f"{number_of_bytes:.1f} TB"


def wrap_words(text: str, width: int) -> str:
    """Break lines between words, as terminals do not; a longer word stays whole."""
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def wrap_parts(parts: Sequence[str], width: int) -> list[str]:
    """Join ``parts`` with dots into as few lines of ``width`` cells as need break none of them."""
    from rich.cells import cell_len

    lines: list[str] = []
    for part in parts:
        if lines and cell_len(longer := f"{lines[-1]} · {part}") <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines
