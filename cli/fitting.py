"""Tables for terminals of any width."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table

#: A column that gives way says enough with so many.
_CUT_CELLS = 14


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
        copies = (column.copy() for column in columns)
        table = Table(*copies, box=None, pad_edge=False, header_style="dim", padding=self.padding)
        for row in zip(*(column.cells for column in columns), strict=True):
            table.add_row(*row)
        return table


def facts() -> Table:
    """For rows of two: what it is, and what there is to say of it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _cells_needed(column: Column) -> int:
    texts = [str(cell) for cell in (column.header, *column.cells)]
    lines = [line for text in texts for line in text.split("\n")]
    parts = lines if column.no_wrap else [word for line in lines for word in line.split()]
    widest = max(map(cell_len, parts), default=0)
    if column.overflow == "ellipsis" and not column.no_wrap:
        widest = min(widest, _CUT_CELLS)
    return max(column.min_width or 0, min(widest, column.max_width or widest))
