"""Tables for terminals of any width."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table


class FittingTable(Table):
    """A plain table that goes without some columns where not all fit: the rest stays whole."""

    def __init__(self, *, spare: Sequence[str], gap: int = 2) -> None:
        """``spare``: headers of the columns that may go, the first one first."""
        super().__init__(box=None, pad_edge=False, header_style="dim", padding=(0, gap, 0, 0))
        self._gap = gap
        self._spare = spare

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, spare = list(self.columns), list(self._spare)
        while spare and self._needed(columns) > options.max_width:
            gone = spare.pop(0)
            columns = [column for column in columns if column.header != gone]
        yield self._of(columns)

    def _needed(self, columns: Sequence[Column]) -> int:
        return sum(map(_cells_needed, columns)) + self._gap * (len(columns) - 1)

    def _of(self, columns: Sequence[Column]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=self.padding)
        for column in columns:
            table.add_column(
                column.header,
                justify=column.justify,
                no_wrap=column.no_wrap,
                overflow=column.overflow,
                max_width=column.max_width,
            )
        for row in zip(*(column.cells for column in columns), strict=True):
            table.add_row(*row)
        return table


def _cells_needed(column: Column) -> int:
    texts = [str(cell) for cell in (column.header, *column.cells)]
    parts = texts if column.no_wrap else [word for text in texts for word in text.split()]
    widest = max(map(cell_len, parts), default=0)
    return widest if column.max_width is None else min(widest, column.max_width)
