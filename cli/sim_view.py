"""Simulations on the terminal: bars while they run, then a table and a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, log
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cli.fitting import FittingTable
from cli.simulations import Answered, Finished, Job
from cli.text import count, duration, size
from overlay.sim.outcome import Report, Spread

#: What stands out: the best of a column.
_BEST: Final = "bold green"
_NAME_CHARS_MAX: Final = 16
_PLOT_CHARS_MAX: Final = 90
#: Between two numbers of an axis.
_GAP_CHARS: Final = 3


class SimProgress:
    """A context manager that shows how far each policy is; on a terminal only."""

    def __init__(self, console: Console, jobs: Sequence[Job], requests: int) -> None:
        """``requests``: of one job, as far as one knows beforehand."""
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._requests = requests
        self._answered = dict.fromkeys(jobs, 0)
        self._tasks: dict[str, TaskID] = {}
        for job in jobs:
            if job.policy not in self._tasks:
                total = requests * sum(other.policy == job.policy for other in jobs)
                self._tasks[job.policy] = self._bars.add_task(job.policy, start=False, total=total)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, news: Answered | Finished) -> None:
        job, task = news.job, self._tasks[news.job.policy]
        self._bars.start_task(task)
        # A workload may end before so many requests.
        self._answered[job] = self._requests if isinstance(news, Finished) else news.requests
        done = sum(n for other, n in self._answered.items() if other.policy == job.policy)
        self._bars.update(task, completed=done)


def result_view(reports: Sequence[Report], width: int, *, asked: int) -> RenderableType:
    """The table, what failed, and the plot, in ``width`` columns.

    ``asked``: requests that should count with each policy, if as many come.
    """
    parts: list[RenderableType] = [_table(reports)]
    came = max(report.requests for report in reports)
    if came < asked:
        parts.append(Text(f"only {came:,} of {count(asked, 'request')} came", style="yellow"))
    for report in reports:
        if report.failed:
            requests = count(report.requests, "request")
            failed = f"{report.policy}: {report.failed:,} of {requests} failed"
            parts.append(Text(failed, style="red"))
    if any(len(report.ttfts_ms) for report in reports):
        parts += [Text(), times_plot(reports, width)]
    return Group(*parts)


def _table(reports: Sequence[Report]) -> Table:
    spare = ("\nforwards", "\ngossip", "imba-\nlance", "\np99", "\np50")
    table = FittingTable(spare=spare, gap=1)
    # The column that gives way first.
    table.add_column("policy", vertical="bottom", overflow="ellipsis")
    for title in (
        "hit\nrate",
        "TTFT\nmean",
        "\np50",
        "\np95",
        "\np99",
        "imba-\nlance",
        "\nforwards",
        "\ngossip",
    ):
        table.add_column(title, justify="right", no_wrap=True, min_width=6)
    columns = [
        _cells([report.hit_rate for report in reports], lambda v: f"{v:.1%}", best=max),
        *(
            _cells([getattr(report.ttft_ms, name) for report in reports], _time, best=min)
            for name in Spread.__slots__
        ),
        _cells([report.imbalance for report in reports], lambda v: f"{v:.2f}", best=min),
        [Text(f"{report.forwards:,}") for report in reports],
        [Text(size(report.gossip_bytes)) for report in reports],
    ]
    for report, *cells in zip(reports, *columns, strict=True):
        table.add_row(Text(report.policy), *cells)
    return table


def _cells(
    values: Sequence[float], shown: Callable[[float], str], best: Callable[[list[float]], float]
) -> list[Text]:
    """The values as they are shown; what looks like the best stands out, if any looks worse."""
    texts = [shown(value) if isfinite(value) else "" for value in values]
    finite = [value for value in values if isfinite(value)]
    winner = shown(best(finite)) if len(set(texts)) > 1 and finite else None
    return [Text(text, style=_BEST if text == winner else "") for text in texts]


def _time(milliseconds: float) -> str:
    return duration(milliseconds) if milliseconds < 99_950 else f"{milliseconds / 1000:,.0f} s"


# --- The plot ---------------------------------------------------------------------------------


def times_plot(reports: Sequence[Report], width: int) -> Text:
    """Times to first token, a line for each policy, on a logarithmic axis.

    At least one report must have a request that was answered.
    """
    names = [report.policy[:_NAME_CHARS_MAX] for report in reports]
    label = max(map(len, names)) + 2
    axis = _Axis([report.ttft_ms for report in reports], min(width, _PLOT_CHARS_MAX) - label - 1)
    lines = [Text.assemble("time to first token  ", ("● p50  ◆ mean  ┃ p95  ╴ p99", "dim"))]
    for name, report in zip(names, reports, strict=True):
        lines.append(Text(name.ljust(label)) + axis.line(report.ttft_ms))
    lines += [Text(" " * label + below, style="dim") for below in axis.scale()]
    return Text("\n").join(lines)


class _Axis:
    """A logarithmic axis of ``chars`` characters that has room for all of ``spreads``."""

    def __init__(self, spreads: Sequence[Spread], chars: int) -> None:
        ends = [value for s in spreads for value in (s.mean, s.p50, s.p99) if isfinite(value)]
        self._low = max(0.1, min(ends)) / 1.15
        self._high = max(max(ends), 2 * self._low) * 1.1
        self._chars = max(20, chars)

    def _at(self, value: float) -> int:
        share = log(max(value, self._low) / self._low) / log(self._high / self._low)
        return round(share * (self._chars - 1))

    def line(self, spread: Spread) -> Text:
        if not isfinite(spread.mean):
            return Text("no request was answered", style="red")
        half, most, last = map(self._at, (spread.p50, spread.p95, spread.p99))
        marks = [" "] * self._chars
        marks[half : most + 1] = "━" * (most + 1 - half)
        marks[most : last + 1] = "─" * (last + 1 - most)
        marks[last], marks[most], marks[half] = "╴", "┃", "●"
        marks[self._at(spread.mean)] = "◆"
        return Text("".join(marks).rstrip(), style="cyan")

    def scale(self) -> tuple[str, str]:
        """Ticks, and the numbers below them."""
        ticks, numbers = ["─"] * self._chars, ""
        for power in range(-1, 9):
            for step in (1, 2, 5):
                value = step * 10.0**power
                if not self._low <= value <= self._high:
                    continue
                at, number = self._at(value), _round_time(value)
                begin = max(0, at - len(number) // 2)
                free = not numbers or begin >= len(numbers) + _GAP_CHARS
                if free and begin + len(number) <= self._chars:
                    ticks[at] = "┬"
                    numbers = numbers.ljust(begin) + number
        return "".join(ticks), numbers


def _round_time(milliseconds: float) -> str:
    return f"{milliseconds:g} ms" if milliseconds < 1000 else f"{milliseconds / 1000:,g} s"
