"""What a run of the no-regret grid says, as tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final

from tests.bench.regret_ablations import ABLATIONS
from tests.bench.regret_figures import (
    GOAL,
    ORACLE_GOAL,
    Compared,
    geometric_mean,
    share,
)
from tests.bench.regret_grid import Cell
from tests.bench.report import markdown

#: How many of the worst cells are told.
WORST: Final = 10
_AXES: Final[dict[str, Callable[[Cell], float]]] = {
    "nodes": lambda cell: cell.nodes,
    "RTT, ms": lambda cell: cell.rtt_ms,
    "skew": lambda cell: cell.skew,
    "load": lambda cell: cell.load,
    "cache": lambda cell: cell.cache,
}


def summary(compared: Sequence[Compared]) -> str:
    """One row for all cells, and one for each value of an axis."""
    rows = [_summed("all", compared)]
    for name, of in _AXES.items():
        values = sorted({of(each.cell) for each in compared})
        rows += [
            _summed(f"{name}: {value:g}", [each for each in compared if of(each.cell) == value])
            for value in values
            if len(values) > 1
        ]
    within = f"within {GOAL:g}"
    head = ("cells", "mean: " + within, "ratio", "worst", "p95: " + within, "ratio", "worst")
    return markdown(("", *head, f"within {ORACLE_GOAL:g} of the oracle", "ahead of sglang"), rows)


def worst(compared: Sequence[Compared]) -> str:
    """The cells in which Hearth is farthest behind, by the mean or the 95th percentile."""
    ordered = sorted(compared, key=lambda each: -max(each.mean.value, each.p95.value))
    head = ("nodes", "RTT, ms", "skew", "load", "cache", "mean, ms", "ratio", "best mean")
    tail = ("p95, ms", "ratio", "best p95", "to the oracle", "to sglang")
    rows = [
        (
            *(f"{of(each.cell):g}" for of in _AXES.values()),
            f"{each.mean_ms:,.0f}",
            _with_error(each.mean.value, each.mean.error),
            each.mean.rival,
            f"{each.p95_ms:,.0f}",
            _with_error(each.p95.value, each.p95.error),
            each.p95.rival,
            f"{each.oracle.value:.2f}",
            f"{each.sglang.value:.2f}",
        )
        for each in ordered[:WORST]
    ]
    return markdown((*head, *tail), rows)


def remarks(compared: Sequence[Compared]) -> list[str]:
    """The facts beside the tables, a sentence each."""
    told = [
        f"{len(compared)} cells; seeds in each: {_seeds(compared)}. Ratios are Hearth's time by "
        "that of the best decentralised policy in the cell; over several cells their geometric "
        "mean.",
        *_noise(compared),
    ]
    failed = sorted({who for each in compared for who, count in each.failed.items() if count})
    if failed:
        cells = sum(any(each.failed.values()) for each in compared)
        told.append(
            f"Requests that were refused count for nothing: in {cells} cells, of "
            f"{', '.join(failed)}."
        )
    return told


def ablations(of: Mapping[str, Sequence[Compared]], whole: Sequence[Compared]) -> str:
    """``whole``: Hearth with all its parts, in the same cells as each of the ablations ``of``."""
    rows = [("hearth", "", "1.00", "", "1.00", "", f"{_within(whole):.0%}")]
    by_cell = {each.cell: each for each in whole}
    for name, compared in of.items():
        pairs = [(each, by_cell[each.cell]) for each in compared if each.cell in by_cell]
        if not pairs:
            continue
        means = {a.cell: a.mean_ms / b.mean_ms for a, b in pairs}
        p95s = {a.cell: a.p95_ms / b.p95_ms for a, b in pairs}
        rows.append(
            (
                name,
                ABLATIONS[name].summary,
                f"{geometric_mean(means.values()):.2f}",
                f"{max(means.values()):.2f} ({_short(max(means, key=means.__getitem__))})",
                f"{geometric_mean(p95s.values()):.2f}",
                f"{max(p95s.values()):.2f}",
                f"{_within(compared):.0%}",
            )
        )
    head = ("what that means", "mean, times Hearth's", "worst", "p95", "worst")
    return markdown(("", *head, f"cells within {GOAL:g}"), rows)


def _summed(name: str, compared: Sequence[Compared]) -> tuple[str, ...]:
    figures = [name, f"{len(compared)}"]
    for ratios in ([each.mean for each in compared], [each.p95 for each in compared]):
        values = [ratio.value for ratio in ratios]
        figures += [
            f"{share(value <= GOAL for value in values):.0%}",
            f"{geometric_mean(values):.2f}",
            f"{max(values):.2f}",
        ]
    figures.append(f"{share(each.oracle.value <= ORACLE_GOAL for each in compared):.0%}")
    figures.append(f"{share(each.sglang.value < 1 for each in compared):.0%}")
    return tuple(figures)


def _within(compared: Sequence[Compared]) -> float:
    return share(each.mean.value <= GOAL and each.p95.value <= GOAL for each in compared)


def _seeds(compared: Sequence[Compared]) -> str:
    fewest, most = min(each.seeds for each in compared), max(each.seeds for each in compared)
    return str(most) if fewest == most else f"{fewest} to {most}"


def _noise(compared: Sequence[Compared]) -> list[str]:
    """How far to trust a ratio."""
    told = []
    for name, ratios in (
        ("the mean", [each.mean for each in compared]),
        ("the 95th percentile", [each.p95 for each in compared]),
    ):
        errors = [ratio.error for ratio in ratios if math.isfinite(ratio.error)]
        if errors:
            above = sum(ratio.value > GOAL for ratio in ratios)
            clearly = sum(ratio.clearly_above_goal for ratio in ratios)
            told.append(
                f"The standard error of a ratio of {name} over the seeds is {median(errors):.1%} "
                f"in the median cell, {max(errors):.0%} at most; {above} are above {GOAL:g}, "
                f"{clearly} by more than two standard errors."
            )
    return told


def _with_error(ratio: float, error: float) -> str:
    return f"{ratio:.2f} ± {ratio * error:.2f}" if math.isfinite(error) else f"{ratio:.2f}"


def _short(cell: Cell) -> str:
    return (
        f"{cell.nodes} nodes, RTT {cell.rtt_ms:g}, skew {cell.skew:g}, load {cell.load:g}, "
        f"cache {cell.cache:g}"
    )
