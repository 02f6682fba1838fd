"""Where a growing Markdown text may be cut: blocks that no further text can change."""

from __future__ import annotations

from markdown_it import MarkdownIt

_PARSER = MarkdownIt().enable("table").enable("strikethrough")


def split_finished(text: str) -> tuple[list[str], str]:
    """Split into finished top-level blocks and the tail that may still grow.

    Only whole lines count: a last, partial line may turn out to continue the block above it.
    Joined together, the blocks and the tail are ``text`` again. ``text`` has no ``\\r``.
    """
    whole = text[: text.rfind("\n") + 1]
    starts = [
        token.map[0]
        for token in _PARSER.parse(whole)
        if token.level == 0 and token.nesting >= 0 and token.map
    ]
    if len(starts) < 2:
        return [], text
    lines = [line + "\n" for line in whole.split("\n")]
    blocks = ["".join(lines[a:b]) for a, b in zip([0, *starts[1:]], starts[1:], strict=False)]
    return blocks, text[sum(map(len, blocks)) :]
