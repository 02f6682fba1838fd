"""An answer as it comes: finished blocks go to the scrollback, only the tail is redrawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Self

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.control import Control
from rich.live import Live
from rich.markdown import Heading, Markdown
from rich.segment import ControlType, Segment
from rich.spinner import Spinner
from rich.text import Text

from cli.chat.blocks import PARSER, split_blocks, split_finished
from cli.text import printable

#: Lines of the screen that the live part leaves free, so that it never scrolls.
_SPARE_LINES = 2
_REFRESH_PER_S = 12
#: After so long without any text it is shown that more is waited for: another node goes on, say.
_SILENT_S = 2.0


def _private_mode(code: str) -> Segment:
    # Of no width, and only for terminals. Rich has no name for it, so any other control stands in.
    return Segment(code, None, [(ControlType.CARRIAGE_RETURN,)])


#: Terminals differ over the width of emoji. A line that is too long for one of them must not wrap:
#: the next redraw would clear too few lines, and leave one in the scrollback each time.
_NO_WRAP, _WRAP = _private_mode("\x1b[?7l"), _private_mode("\x1b[?7h")


class _LeftHeading(Heading):
    """Headings flush left: a chat is no title page."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _AnswerMarkdown(Markdown):
    elements = Markdown.elements | {"heading_open": _LeftHeading}

    def __init__(self, markup: str) -> None:
        super().__init__(markup, code_theme="ansi_dark", hyperlinks=False)
        self.parsed = PARSER.parse(markup)
        # A model that begins a new line means it: verses, addresses, steps.
        for child in (child for token in self.parsed for child in token.children or ()):
            if child.type == "softbreak":
                child.type = "hardbreak"


def _markdown_lines(text: str, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
    """The rendered lines, with one blank line between blocks, however rich spaces each kind."""
    found: list[list[Segment]] = []
    for block in split_blocks(text):
        markdown = _AnswerMarkdown(block)
        lines = console.render_lines(markdown, options.update(height=None), pad=False)
        lines = [_unfilled(line) for line in lines]
        full = [number for number, line in enumerate(lines) if line]
        if full:
            found += [[]] if found else []
            found += lines[full[0] : full[-1] + 1]
    return found


def _unfilled(line: list[Segment]) -> list[Segment]:
    """Less the spaces that fill it: a narrowed terminal would wrap them, and a copy have them."""
    while line and not line[-1].text.strip():
        line = line[:-1]
    return [*line[:-1], Segment(line[-1].text.rstrip(), line[-1].style)] if line else []


class _Block:
    """A finished block."""

    def __init__(self, text: str, below_block: bool) -> None:
        self._text = text
        self._below_block = below_block

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._below_block:
            yield Segment.line()
        for line in _markdown_lines(self._text, console, options):
            yield from line
            yield Segment.line()


class _Live(Live):
    """Drawn by the thread that prints, and between by one of rich's own."""

    def undisturbed(self) -> AbstractContextManager[object]:
        """While it is open, that thread draws nothing: each clears what the last one drew."""
        return self._lock


class AnswerView:
    """A context manager: ``add`` text as it arrives; on leaving, all of it is in the scrollback."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tail = _Tail(time.monotonic)
        self._wrapped = _Wrapped(console, self._tail)
        self._live = _Live(
            self._tail,
            console=console,
            refresh_per_second=_REFRESH_PER_S,
            transient=True,
            vertical_overflow="crop",
        )
        #: All text so far.
        self.text = ""

    def __enter__(self) -> Self:
        self._console.push_render_hook(self._wrapped)
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        rest, self._tail.text = self._tail.text, ""
        self._tail.done = True
        self._live.stop()
        self._console.pop_render_hook()
        self._print(rest)

    def add(self, text: str) -> None:
        text = printable(text)
        self.text += text
        tail = self._tail.text + text
        # Only whole lines finish a block, and parsing all for each token is slow in a long list.
        blocks, tail = split_finished(tail) if "\n" in text else ([], tail)
        with self._live.undisturbed():
            # The tail first: it is drawn below each block.
            self._tail.grow(tail)
            for block in blocks:
                self._print(block)

    def _print(self, block: str) -> None:
        if not block.strip():
            return
        below = self._tail.below_block
        self._tail.below_block = True
        self._console.print(_Block(block, below), end="")


class _Wrapped(RenderHook):
    """Clears what rich does not know of: a narrowed terminal wraps the lines that it shows.

    Rich goes up by as many lines as it drew, then this by as many as they became more.
    """

    def __init__(self, console: Console, tail: _Tail) -> None:
        self._console = console
        self._tail = tail

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        width = self._console.width
        more = sum((cells - 1) // width for cells in self._tail.drawn if cells)
        clear = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * more
        return [Control(*clear), *renderables]


class _Tail:
    """The live part: as much of the tail as fits, and a spinner while no text comes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: When the last text came, or else the question was asked.
        self._since = clock()
        self._spinner = Spinner("dots", style="dim")
        self.text = ""
        self.begun = False
        #: The width of each line that stands on the screen, in cells.
        self.drawn: list[int] = []
        #: Finished text stands above: a blank line comes between.
        self.below_block = False
        self.done = False

    def grow(self, text: str) -> None:
        """Text came, and the tail is ``text`` now."""
        self.text = text
        self._since = self._clock()
        self.begun = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.drawn = []
        if self.done:
            return
        lines = _markdown_lines(self.text, console, options)
        silent_s = self._clock() - self._since
        if not self.begun or silent_s >= _SILENT_S:
            doing = "waiting for more" if self.begun else "thinking (prefill)"
            self._spinner.update(text=Text(f"{doing}… {silent_s:.1f} s", style="dim"))
            lines += console.render_lines(self._spinner, options.update(height=None), pad=False)
        if lines and self.below_block:
            lines.insert(0, [])
        lines = lines[-max(1, console.height - _SPARE_LINES) :]
        self.drawn = [Segment.get_line_length(line) for line in lines]
        yield _NO_WRAP
        for number, line in enumerate(lines):
            if number:
                yield Segment.line()
            yield from line
        yield _WRAP
