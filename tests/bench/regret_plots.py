"""Pictures of the no-regret grid. They need matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from overlay.sim.plots import require_matplotlib
from tests.bench.regret_figures import Compared
from tests.bench.regret_grid import CACHES, LOADS, RTTS_MS, SKEWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of Okabe and Ito (2008), which people tell apart whatever their colour vision.
_COLOURS: Final = ("#D55E00", "#0072B2", "#009E73")
_DASHES: Final = ("-", "--", "-.")
_DPI: Final = 110
#: The colours reach from one half to twice the best; what is beyond is as dark.
_REACH: Final = float(np.log(2.0))
NODES: Final = 8


def heat_map(compared: Sequence[Compared], path: Path) -> None:
    """Two maps, of the mean and the 95th percentile: a panel for each RTT and skew, in it a cell
    for each load and cache; meshes of `NODES` nodes."""
    cells = {
        (e.cell.rtt_ms, e.cell.skew, e.cell.load, e.cell.cache): e
        for e in compared
        if e.cell.nodes == NODES
    }
    figure = _figure(12.6, 5.6)
    halves = figure.subfigures(1, 2, squeeze=False, wspace=0.02).flat
    ratios: tuple[tuple[str, Callable[[Compared], float]], ...] = (
        ("mean time to first token", lambda e: e.mean.value),
        ("95th percentile", lambda e: e.p95.value),
    )
    for half, (title, ratio) in zip(halves, ratios, strict=True):
        half.suptitle(f"{title}, by the best decentralised policy's", fontsize=10)
        panels = half.subplots(len(SKEWS), len(RTTS_MS), sharex=True, sharey=True)
        for row, skew in enumerate(SKEWS):
            for column, rtt_ms in enumerate(RTTS_MS):
                values = [
                    [
                        ratio(found)
                        if (found := cells.get((rtt_ms, skew, load, cache)))
                        else np.nan
                        for load in LOADS
                    ]
                    for cache in CACHES
                ]
                axes = panels[row, column]
                _panel(axes, np.array(values))
                if row == 0:
                    axes.set_title(f"RTT {rtt_ms:g} ms", fontsize=8)
                if row == len(SKEWS) - 1:
                    axes.set_xlabel("load", fontsize=7, labelpad=1)
                if column == 0:
                    axes.set_ylabel(f"skew {skew:g}\ncache", fontsize=7, labelpad=1)
    figure.savefig(path, format="png")


def curves(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]], path: Path
) -> None:
    """For each panel, by its label: the values along its axis, and each policy's mean times, ms."""
    figure = _figure(9.0, 3.4)
    for axes, (label, (along, times)) in zip(
        figure.subplots(1, len(panels)), panels.items(), strict=True
    ):
        for (policy, means), colour, dashes in zip(times.items(), _COLOURS, _DASHES, strict=True):
            axes.plot(along, means, dashes, marker="o", ms=4, color=colour, label=policy, lw=1.8)
        axes.set(xlabel=label, ylabel="mean time to first token (ms)", yscale="log")
        if along[-1] > 100 * along[0] > 0:
            axes.set_xscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", handlelength=3)
    figure.savefig(path, format="png")


def _panel(axes: Axes, values: Any) -> None:
    ratios = np.log(values)
    image = axes.imshow(ratios, aspect="auto", cmap="PuOr_r", vmin=-_REACH, vmax=_REACH)
    axes.set_xticks(range(len(LOADS)), [f"{load:g}" for load in LOADS], fontsize=6)
    axes.set_yticks(range(len(CACHES)), [f"{cache:g}" for cache in CACHES], fontsize=6)
    axes.tick_params(length=1.5, pad=1.5)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(image.norm(np.log(value)))
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=6)


def _figure(width_in: float, height_in: float) -> Figure:
    require_matplotlib()
    # Not pyplot: it keeps figures, and may look for a display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=_DPI, layout="constrained")
