"""Writes the reference of the limits: ``python -m tests.support.limits_page > PAGE``."""

from __future__ import annotations

import re
from pathlib import Path

from overlay import limits

_HEAD = """# Limits

Every bound that Hearth keeps, with its reason. This page is made from `overlay/limits.py`:
`python -m tests.support.limits_page > docs/reference/limits.md`.
"""


def limits_page() -> str:
    """The page, in Markdown: one table per section, in the order of the source."""
    lines = [_HEAD]
    reason = ""
    fresh = False
    for line in Path(limits.__file__).read_text().splitlines():
        if section := re.match(r"# --- (\w+) -", line):
            lines += [
                f"## {section[1]}\n",
                "| limit | value | what and why |",
                "| --- | --- | --- |",
            ]
        elif line.startswith("#: "):
            reason = f"{reason} {line[3:]}" if fresh else line[3:]
            fresh = True
        elif constant := re.match(r"([A-Z_]+): Final = ", line):
            name = constant[1]
            lines.append(f"| {name} | {_shown(name, getattr(limits, name))} | {reason} |")
            fresh = False
        elif not line and lines[-1].startswith("| ") and not lines[-1].startswith("| ---"):
            lines.append("")
    return "\n".join(lines) + "\n"


def _shown(name: str, value: float) -> str:
    rate = " a second" if name.endswith("_PER_S") else ""
    if "_BYTES_" in name and value % 1024 == 0:
        kib = int(value) >> 10
        return (f"{kib} KiB" if kib < 1024 else f"{kib >> 10} MiB") + rate
    unit = rate or (" s" if name.endswith("_S") else "")
    return f"{value:,}{unit}" if isinstance(value, int) else f"{value:,g}{unit}"


if __name__ == "__main__":
    print(limits_page(), end="")
