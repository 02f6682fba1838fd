"""Pictures of what simulations showed, as PNG files. They need matplotlib, which is an extra.

Colours are those of Okabe and Ito (2008), which people tell apart whatever their colour vision;
lines differ in their dashes as well, and every cell and bar has its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from overlay.errors import ConfigError
from overlay.sim.outcome import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_DASHES: Final = ("-", "--", "-.", ":")
_INK: Final = "#444444"
#: At most so many points make a curve: more cannot be seen.
_CURVE_POINTS: Final = 2000
#: Axes that reach further than this ratio have numbers at powers of ten only.
_DECADES_WIDE: Final = 200.0
#: The colours of a grid reach to this ratio at least, so that small differences stay pale.
_REACH_MIN: Final = float(np.log(1.1))


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a grid: what it is, with its unit, and its values in order."""

    label: str
    values: Sequence[float]


def require_matplotlib() -> None:
    """Raises ConfigError, which says how to install it, if it is missing."""
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "plots as PNG need matplotlib, which is not installed: run pip install matplotlib in "
            "Hearth's environment (with pipx: pipx inject hearth-mesh matplotlib)"
        )


def compare(reports: Sequence[Report], title: str, path: Path) -> None:
    """Policies side by side: all times to first token, hit rates, and mean and 95th percentile.

    Raises ConfigError without matplotlib, or if ``path`` cannot be written.
    """
    figure = _figure(11, 3.0 + 0.3 * len(reports))
    panels = figure.subplots(1, 3, width_ratios=(1.4, 0.8, 1.2), squeeze=False)
    curves, rates, times = panels.flatten()
    _curves(curves, reports)
    _hit_rates(rates, reports)
    _times(times, reports)
    figure.suptitle(title)
    _save(figure, path)


def grid(
    values: Sequence[Sequence[float]],
    across: Axis,
    down: Axis,
    *,
    title: str,
    label: str,
    path: Path,
    even: float | None = None,
) -> None:
    """A heat map: ``values[row][column]`` for each value ``down`` and ``across``; nan: no cell.

    ``label``: what the values are. ``even``: the value that is neither good nor bad; below it
    cells are violet, above it orange, by the ratio to it. Without it, dark is small.
    Raises ConfigError without matplotlib, or if ``path`` cannot be written.
    """
    cells = np.array(values, dtype=float)
    if cells.shape != (len(down.values), len(across.values)):
        raise ValueError(f"{cells.shape} cells for {len(down.values)} x {len(across.values)}")
    figure = _figure(2.6 + 0.75 * cells.shape[1], 1.6 + 0.45 * cells.shape[0])
    axes = figure.subplots()
    if even is None:
        image = axes.imshow(cells, aspect="auto", cmap="cividis")
    else:
        ratios = np.log(cells / even)
        reach = float(np.nanmax(np.abs(ratios), initial=_REACH_MIN))
        image = axes.imshow(ratios, aspect="auto", cmap="PuOr_r", vmin=-reach, vmax=reach)
    axes.set(title=title, xlabel=across.label, ylabel=down.label)
    axes.set_xticks(range(len(across.values)), [f"{value:g}" for value in across.values])
    axes.set_yticks(range(len(down.values)), [f"{value:g}" for value in down.values])
    for (row, column), value in np.ndenumerate(cells):
        if np.isfinite(value):
            shown = np.log(value / even) if even is not None else value
            red, green, blue, _ = image.cmap(image.norm(shown))
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            axes.text(column, row, _figures(value), ha="center", va="center", color=ink)
    bar = figure.colorbar(image, ax=axes, label=label)
    if even is not None:
        ticks = [tick for tick in bar.get_ticks() if abs(tick) <= reach]
        bar.set_ticks(ticks, labels=[f"{even * np.exp(tick):.2f}" for tick in ticks])
    _save(figure, path)


def _curves(axes: Axes, reports: Sequence[Report]) -> None:
    for number, report in enumerate(reports):
        times = report.ttfts_ms
        if not len(times):
            continue
        share = np.linspace(0, 1, min(len(times), _CURVE_POINTS))
        # Never the same colour and dashes again, though there are fewer colours than policies.
        dashes = _DASHES[(number + 2 * (number // len(_COLOURS))) % len(_DASHES)]
        at = np.quantile(times, share)
        axes.plot(at, 100 * share, dashes, color=_colour(number), label=report.policy, lw=1.8)
    axes.set(ylabel="requests answered so soon (%)", ylim=(0, 100))
    axes.legend(loc="upper left", fontsize="small", handlelength=3)
    _logarithmic(axes)


def _hit_rates(axes: Axes, reports: Sequence[Report]) -> None:
    for number, report in enumerate(reports):
        bar = axes.barh(number, 100 * report.hit_rate, color=_colour(number))
        axes.bar_label(bar, fmt="%.0f", padding=2)
    axes.set(xlabel="prompt tokens cached (%)", xlim=(0, 115), xticks=range(0, 101, 25))
    axes.set_yticks(range(len(reports)), [report.policy for report in reports])
    _rows(axes, len(reports))


def _times(axes: Axes, reports: Sequence[Report]) -> None:
    for number, report in enumerate(reports):
        if not len(report.ttfts_ms):
            continue
        spread, colour = report.ttft_ms, _colour(number)
        axes.plot([spread.mean, spread.p95], [number] * 2, "-", color=colour, lw=2)
        axes.plot(spread.mean, number, "o", color=colour, ms=8)
        axes.plot(spread.p95, number, "|", color=colour, ms=8, mew=2)
        # A few very long waits can lift the mean beyond the percentile.
        ends = sorted((spread.mean, spread.p95))
        for value, side, apart in zip(ends, ("right", "left"), (-8, 8), strict=True):
            axes.annotate(
                _figures(value),
                (value, number),
                xytext=(apart, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize="small",
            )
    axes.set_yticks(range(len(reports)), [])
    _rows(axes, len(reports))
    axes.margins(x=0.25)
    axes.set_title("● mean    | 95th percentile", fontsize="small", color=_INK)
    _logarithmic(axes)


def _rows(axes: Axes, count: int) -> None:
    """One row for each policy, the first on top; at the same height in each panel."""
    axes.set_ylim(count - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _logarithmic(axes: Axes) -> None:
    """An axis of milliseconds over several decades, with numbers that one can read."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(xlabel="time to first token (ms)", xscale="log")
    low, high = axes.get_xlim()
    steps = (1.0,) if high / low > _DECADES_WIDE else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=_INK, alpha=0.2)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _figures(value: float) -> str:
    """Three figures, as short as can be: 1,240, 56.3, 0.98."""
    if not np.isfinite(value):
        return ""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _figure(width_in: float, height_in: float) -> Figure:
    require_matplotlib()
    # Not pyplot: it keeps figures, and may look for a display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=144, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
