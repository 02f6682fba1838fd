"""No regret: Hearth's policy beside all others over a grid of simulated meshes.

Round trips from 0.2 ms to 2 s, even to very skewed demand, idle to full machines, caches for a
tenth of what is asked to all of it, 2 to 100 nodes. The goal: nowhere slower than the best of the
decentralised policies, whichever that is there, by more than a fiftieth.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from statistics import mean
from typing import Any, Final

from overlay.sim.plots import require_matplotlib
from overlay.sim.run import HEARTH
from tests.bench import regret_plots, regret_report
from tests.bench.regret_ablations import ABLATIONS
from tests.bench.regret_figures import FIRST_SEED, RIVALS, Compared, compare, contenders, is_noisy
from tests.bench.regret_grid import (
    FINDINGS_RTTS_MS,
    FINDINGS_SKEWS,
    NODES,
    OVER_RTT,
    OVER_SKEW,
    Cell,
    Extent,
    cells,
)
from tests.bench.regret_runs import Job, Results, simulate

SEEDS: Final = 3
QUICK_SEEDS: Final = 1
#: Cells in which chance means much get up to so many times as many.
NOISY_SEEDS: Final = 5
#: Meshes of so many nodes come last: each takes longer than all others of its seed.
LAST: Final = 100
#: Who is seen in the paper's two findings.
FINDERS: Final = ("longest-match", "local-only", HEARTH)
#: Ablations are made in meshes of so many nodes, in every other cell.
ABLATED: Final = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What to simulate. ``again``: these policies only, and whatever is known of them anew.

    ``processes``: 0 to simulate nothing, and compare what is known.
    """

    extent: Extent
    seeds: int
    processes: int
    nodes: tuple[int, ...] = NODES
    results: Path | None = None
    again: tuple[str, ...] = ()
    ablations: bool = False
    plots: Path | None = None

    def grid(self) -> list[Cell]:
        """The cells in which all policies are compared."""
        return cells(self.extent, self.nodes)

    def ablated(self) -> list[Cell]:
        """Those in which parts of the policy are taken away."""
        if not self.ablations:
            return []
        if self.extent is Extent.QUICK:
            return self.grid()
        return [cell for cell in cells(Extent.THIRD, self.nodes) if cell.nodes == ABLATED][::2]

    def phases(self, results: Results) -> Iterator[tuple[str, list[Job]]]:
        """The jobs that are missing, seed by seed, so that an early end has something of each
        cell. Each phase, which has a name, is to be done before the next one is asked for."""
        for big in (False, True):
            for seed in self.all_seeds():
                jobs = dict.fromkeys(self._jobs(seed, results, big=big))
                yield (
                    f"seed {seed}, {LAST if big else 'fewer'} nodes",
                    [
                        job
                        for job in jobs
                        if results.of(job) is None and (not self.again or job.policy in self.again)
                    ],
                )

    def _jobs(self, seed: int, results: Results, *, big: bool) -> Iterator[Job]:
        further = seed not in self.seeded()
        for cell in self.grid():
            if (cell.nodes == LAST) is big and not (further and self._is_known(cell, results)):
                rivals = RIVALS if seed == FIRST_SEED else contenders(cell, results)
                for policy in (HEARTH, *rivals):
                    yield Job(cell, policy, seed)
        if big or further:
            return
        for cell in self.ablated():
            for policy in (HEARTH, *ABLATIONS):
                yield Job(cell, policy, seed)
        if self.plots is not None:
            for cell in (*OVER_RTT, *OVER_SKEW):
                for policy in FINDERS:
                    yield Job(cell, policy, seed)

    def seeded(self) -> range:
        """The seeds of every cell."""
        return range(FIRST_SEED, FIRST_SEED + self.seeds)

    def all_seeds(self) -> range:
        """Those and the ones of noisy cells."""
        return range(FIRST_SEED, FIRST_SEED + NOISY_SEEDS * self.seeds)

    def _is_known(self, cell: Cell, results: Results) -> bool:
        """Whether further seeds would hardly move its ratio."""
        return not any(map(is_noisy, compare([cell], self.all_seeds(), results)))


@dataclass(frozen=True, slots=True)
class Comparison:
    """``ablations``: Hearth without a part, by its name, in some of the cells."""

    plan: Plan
    grid: list[Compared]
    ablations: dict[str, list[Compared]] = field(default_factory=dict)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this part alone."""
    group = parser.add_argument_group("no regret")
    group.add_argument("--full", action="store_true", help="every combination with 8 nodes")
    group.add_argument(
        "--seeds",
        type=_from(1),
        metavar="K",
        help=f"runs of each, up to {NOISY_SEEDS} times as many where chance rules [{SEEDS}]",
    )
    group.add_argument(
        "--jobs",
        type=_from(0),
        metavar="J",
        help="runs at a time [one for each core]; 0: tell what FILE has",
    )
    group.add_argument(
        "--nodes", metavar="N,N,…", help=f"meshes of this size only, of {','.join(map(str, NODES))}"
    )
    group.add_argument(
        "--results", type=Path, metavar="FILE", help="keep results here; what is there stays done"
    )
    group.add_argument(
        "--again",
        metavar="A,B,…",
        help="only these policies, whatever FILE has of them",
        default="",
    )
    group.add_argument("--ablations", action="store_true", help="Hearth without each of its parts")
    group.add_argument("--plots", type=Path, metavar="FOLDER", help="draw pictures there")


def _from(least: int) -> Callable[[str], int]:
    def whole(written: str) -> int:
        number = int(written) if written.isdecimal() else -1
        if number < least:
            raise argparse.ArgumentTypeError(f"give a whole number from {least} on")
        return number

    return whole


def plan_of(options: argparse.Namespace) -> Plan:
    """Raises ValueError for what makes no sense, ConfigError for plots without matplotlib."""
    extent = Extent.QUICK if options.quick else Extent.FULL if options.full else Extent.THIRD
    sizes = {str(nodes): nodes for nodes in NODES}
    named = options.nodes.split(",") if options.nodes else list(sizes)
    if not {*named} <= {*sizes}:
        raise ValueError(f"--nodes: there are cells with {', '.join(sizes)} nodes")
    nodes = tuple(sizes[name] for name in named)
    if not cells(extent, nodes):
        raise ValueError(f"--nodes: no cell of --quick has {options.nodes} nodes")
    if options.plots is not None:
        require_matplotlib()
    again = tuple(filter(None, options.again.split(",")))
    known = (HEARTH, *ABLATIONS, *RIVALS)
    if unknown := sorted({*again} - {*known}):
        raise ValueError(f"--again knows no {', '.join(unknown)}, only {', '.join(known)}")
    if again and options.results is None:
        raise ValueError("--again needs --results")
    return Plan(
        extent=extent,
        seeds=options.seeds or (QUICK_SEEDS if options.quick else SEEDS),
        processes=(os.cpu_count() or 1) if options.jobs is None else options.jobs,
        nodes=nodes,
        results=options.results,
        again=again,
        ablations=options.ablations,
        plots=options.plots,
    )


def measure(plan: Plan, begin: Callable[[str, int], Callable[[], None]]) -> Comparison:
    """Simulate what is missing, and compare.

    ``begin`` is told the name of each phase and how many runs it has, and gives what to call after
    each run.
    """
    results = Results(plan.results, plan.again)
    if plan.processes:
        for name, jobs in plan.phases(results):
            if jobs:
                simulate(jobs, results, plan.processes, begin(name, len(jobs)))
    grid = compare(plan.grid(), plan.all_seeds(), results)
    ablations = {
        name: compare(plan.ablated(), plan.seeded(), results, name)
        for name in ABLATIONS
        if plan.ablations
    }
    if plan.plots is not None:
        plan.plots.mkdir(parents=True, exist_ok=True)
        regret_plots.heat_map(grid, plan.plots / "no-regret.png")
        panels = {
            "round trip (ms), skew 0": (FINDINGS_RTTS_MS, _means(plan, OVER_RTT, results)),
            "skew, round trip 20 ms": (FINDINGS_SKEWS, _means(plan, OVER_SKEW, results)),
        }
        regret_plots.curves(panels, plan.plots / "two-findings.png")
    return Comparison(plan, grid, ablations)


def tables(comparison: Comparison) -> str:
    """Markdown."""
    grid = comparison.grid
    if not grid:
        return "Nothing is done yet."
    parts = [
        regret_report.summary(grid),
        "\n".join(f"- {remark}" for remark in regret_report.remarks(grid)),
        regret_report.worst(grid),
    ]
    if comparison.ablations:
        # Those that are done: there may be few of them yet.
        ablated = {each.cell for done in comparison.ablations.values() for each in done}
        whole = [each for each in grid if each.cell in ablated]
        parts.append(regret_report.ablations(comparison.ablations, whole))
    return "\n\n".join(parts)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, in plain types."""
    return {
        "seeds": comparison.plan.seeds,
        "grid": [asdict(each) for each in comparison.grid],
        "ablations": {
            name: [asdict(each) for each in compared]
            for name, compared in comparison.ablations.items()
        },
    }


def _means(plan: Plan, along: Sequence[Cell], results: Results) -> dict[str, list[float]]:
    """Each policy's mean time to first token in each cell, over the seeds; nan: not simulated."""

    def mean_ms(cell: Cell, policy: str) -> float:
        found = [results.of(Job(cell, policy, seed)) for seed in plan.seeded()]
        return mean(f.mean_ms for f in found if f) if any(found) else nan

    return {policy: [mean_ms(cell, policy) for cell in along] for policy in FINDERS}
