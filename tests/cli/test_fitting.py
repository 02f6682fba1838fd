import io

import pytest
from rich.console import Console

from cli.fitting import FittingTable


def shown(width: int) -> list[str]:
    table = FittingTable(spare=("id", "cached"))
    table.add_column("peer", no_wrap=True, overflow="ellipsis", max_width=6)
    table.add_column("id", no_wrap=True)
    table.add_column("models")
    table.add_column("cached", justify="right", no_wrap=True)
    table.add_row("bea", "12D3…UERE", "llama, qwen", "12,288")
    table.add_row("a-long-name", "12D3…8bHX", "none", "0")
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            38,
            [
                "peer    id         models       cached",
                "bea     12D3…UERE  llama, qwen  12,288",
                "a-lon…  12D3…8bHX  none              0",
            ],
        ),
        (
            33,
            [
                "peer    id         models  cached",
                "bea     12D3…UERE  llama,  12,288",
                "                   qwen",
                "a-lon…  12D3…8bHX  none         0",
            ],
        ),
        (
            32,
            [
                "peer    models       cached",
                "bea     llama, qwen  12,288",
                "a-lon…  none              0",
            ],
        ),
        (20, ["peer    models", "bea     llama, qwen", "a-lon…  none"]),
    ],
)
def test_columns_go_where_they_do_not_fit(width: int, lines: list[str]) -> None:
    assert shown(width) == lines
