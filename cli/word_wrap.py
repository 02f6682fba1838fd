"""Lines broken between words while a text still comes in, as terminals do not."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len

_FENCE = "```"


class WordWrap:
    """Give it what arrives, print what it gives: all of it, with ``\\n`` for some of the spaces.

    A word is held back until it is whole. Lines of fenced code stay as they are, to be copied,
    and so does a word that is longer than a line.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        """``width``: the terminal's, in cells; asked for anew, as it may change meanwhile."""
        self._width = width
        self._column = 0
        self._in_code = False
        self._first_in_line = True
        #: White space, then a word, that are not printed yet.
        self._gap = self._word = ""

    def add(self, text: str) -> str:
        """What can be printed now."""
        return "".join(map(self._next, text))

    def rest(self) -> str:
        """What was held back."""
        width, cells = self._width(), cell_len(self._word)
        if self._first_in_line and self._word.startswith(_FENCE):
            self._in_code = not self._in_code
        end = self._column + len(self._gap.expandtabs()) + cells
        if end > width and self._column and self._gap and not self._in_code:
            self._gap, end = "\n", cells
        shown = self._gap + self._word
        self._first_in_line = self._first_in_line and not self._word
        self._column = end if end <= width else (end - 1) % width + 1
        self._gap = self._word = ""
        return shown

    def _next(self, char: str) -> str:
        if char == "\n":
            shown = self.rest() + char
            self._column, self._first_in_line = 0, True
            return shown
        if char in " \t":
            shown = self.rest() if self._word else ""
            self._gap += char
            return shown
        if cell_len(char) > 1:
            # Chinese and Japanese have no spaces, and may be broken anywhere.
            shown = self.rest() if self._word else ""
            self._word = char
            return shown + self.rest()
        self._word += char
        return self.rest() if len(self._word) >= self._width() else ""
