"""Where a growing Markdown text may be cut: blocks that no further text can change."""

from __future__ import annotations

from typing import Final

from markdown_it import MarkdownIt

#: Without HTML: an answer's ``<b>`` or ``List<String>`` is to be read, not obeyed.
PARSER: Final = MarkdownIt(options_update={"html": False}).enable("table").enable("strikethrough")


def split_blocks(text: str) -> list[str]:
    """The top-level blocks, which joined together are ``text`` again. ``text`` has no ``\\r``."""
    starts = [
        token.map[0]
        for token in PARSER.parse(text)
        if token.level == 0 and token.nesting >= 0 and token.map
    ]
    lines = text.split("\n")
    edges = [0, *starts[1:], len(lines)]
    blocks = ["\n".join(lines[start : edges[i + 1]]) for i, start in enumerate(edges[:-1])]
    return [*(block + "\n" for block in blocks[:-1]), blocks[-1]]


def split_finished(text: str) -> tuple[list[str], str]:
    """Split into finished blocks and the tail that may still grow.

    Only whole lines count: a last, partial line may turn out to continue the block above it.
    """
    whole = text.rfind("\n") + 1
    finished = split_blocks(text[:whole])[:-1]
    return finished, text[sum(map(len, finished)) :]
