"""``hearth sim``: a workload over a simulated mesh, with Hearth's policy and others."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.failures import EXIT_INTERRUPTED, HearthCommand
from cli.options import NumberRange, home_option, json_option, print_json
from cli.sim_options import PolicyList, SpeedList, opened, summaries, workload_names

if TYPE_CHECKING:
    from cli.simulations import Job
    from overlay.sim.outcome import Report
    from overlay.sim.run import Scenario

_POLICIES = "hearth,local-only,random,least-loaded,longest-match,oracle"


@click.command(cls=HearthCommand)
@click.option(
    "--workload",
    shell_complete=workload_names,
    default="zipf",
    show_default=True,
    metavar="NAME[:K=V,…]|FILE",
    help="What users ask: a workload, or a trace in Mooncake's format (.jsonl, .jsonl.gz).",
)
@click.option(
    "--policy",
    "policies",
    type=PolicyList(),
    default=_POLICIES,
    metavar="A,B,…",
    help=f"Who decides where requests go; list: see them all.  [default: {_POLICIES}]",
)
@click.option("--list", "listing", is_flag=True, help="Show the workloads and the policies.")
@click.option(
    "--nodes", type=click.IntRange(1, 2000), default=8, show_default=True, help="Nodes of the mesh."
)
@click.option(
    "--rtt",
    type=NumberRange(0, 60_000),
    default=20.0,
    show_default=True,
    metavar="MS",
    help="Round trip between any two nodes, in milliseconds.",
)
@click.option(
    "--load",
    type=NumberRange(0, 2, min_open=True),
    default=0.6,
    show_default=True,
    help="What share of its time a node would compute if each served its own users only.",
)
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="How many count; half as many come before them, to fill the caches.",
)
@click.option(
    "--cache",
    type=click.IntRange(min=1024),
    default=16_384,
    show_default=True,
    metavar="TOKENS",
    help="What each node's cache holds.",
)
@click.option(
    "--jitter",
    type=NumberRange(0, 1),
    default=0.0,
    help="Spread of delays, as a share of them: 0.2.",
)
@click.option(
    "--loss",
    type=NumberRange(0, 0.9),
    default=0.0,
    help="Share of messages that are lost and sent again.",
)
@click.option(
    "--bandwidth",
    type=NumberRange(min=0.01),
    metavar="MBIT/S",
    help="What each node's uplink carries.  [default: no limit]",
)
@click.option(
    "--speeds",
    type=SpeedList(),
    default="1",
    metavar="X,Y,…",
    help="How fast nodes are, by turns: 1,0.25 makes every other one four times as slow.",
)
@click.option(
    "--churn",
    type=NumberRange(min=0.1),
    metavar="MINUTES",
    help="Nodes run for so long on average, then are away for a minute; half say no goodbye.",
)
@click.option(
    "--split",
    type=NumberRange(min=0.1),
    metavar="MINUTES",
    help="The network falls into two halves after so long on average, for half a minute.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Another one, another run.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    metavar="K",
    help="Run each policy with K seeds, and take the results together.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Draw the comparison as a picture too (needs matplotlib).",
)
@json_option
@home_option
@click.pass_context
def sim(
    ctx: click.Context,
    workload: str,
    policies: tuple[str, ...],
    listing: bool,
    nodes: int,
    rtt: float,
    load: float,
    requests: int,
    cache: int,
    jitter: float,
    loss: float,
    bandwidth: float | None,
    speeds: tuple[float, ...],
    churn: float | None,
    split: float | None,
    seed: int,
    seeds: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Simulate a mesh, and compare routing policies.

    The nodes' own code runs, in virtual time. All policies see the same requests. The same seed
    gives the same results.

    \b
    hearth sim --nodes 16 --rtt 100
    hearth sim --workload zipf:skew=1.6,groups=200 --policy hearth,oracle
    hearth sim --workload trace.jsonl.gz --seeds 5 --plot trace.png
    """
    if listing or policies == ("list",):
        _print_listing(as_json, workloads=listing)
        return
    from cli.simulations import Job
    from overlay.sim.churn import Churn
    from overlay.sim.network import Links
    from overlay.sim.plots import compare, require_matplotlib
    from overlay.sim.run import Scenario

    if plot is not None:
        require_matplotlib()
        if not plot.parent.is_dir():
            raise click.BadParameter(f"there is no folder {plot.parent}", param_hint="--plot")
        if not os.access(plot if plot.exists() else plot.parent, os.W_OK):
            # Not after minutes of computing.
            raise click.BadParameter(f"{plot} cannot be written", param_hint="--plot")
    scenario = Scenario(
        workload=opened(ctx, workload),
        nodes=nodes,
        rtt_ms=rtt,
        requests=requests,
        warm_up=requests // 2,
        load=load,
        cells=cache,
        links=Links(jitter=jitter, loss=loss, bandwidth=1e6 * (bandwidth or 0.0)),
        speeds=speeds,
        churn=Churn(
            up_s=60.0 * churn if churn else math.inf,
            whole_s=60.0 * split if split else math.inf,
        ),
    )
    # Seed by seed, so that an early end has something of each policy.
    seeded = range(seed, seed + seeds)
    jobs = [Job(policy, number) for number in seeded for policy in policies]
    finished = _simulate(scenario, jobs)
    if len(finished) < len(jobs):
        # Policies are compared on the same requests; unless no seed is through with all of them.
        seeded = _through(seeded, policies, finished) or seeded
    reports = {
        policy: {
            number: finished[job] for number in seeded if (job := Job(policy, number)) in finished
        }
        for policy in policies
    }
    _print_results(scenario, seeded, reports, as_json)
    if len(finished) < len(jobs):
        click.echo(f"stopped: {len(finished)} of {len(jobs)} runs were finished", err=True)
        ctx.exit(EXIT_INTERRUPTED)
    if plot is not None:
        compare(_together(reports), " · ".join(_setting(scenario, seeded)), plot)
        click.echo(f"drawn in {plot}", err=True)


def _through(seeds: range, policies: Sequence[str], finished: Mapping[Job, Report]) -> range:
    """The first seeds that all policies have finished."""
    from cli.simulations import Job

    whole = takewhile(lambda seed: all(Job(p, seed) in finished for p in policies), seeds)
    return seeds[: len(list(whole))]


def _simulate(scenario: Scenario, jobs: list[Job]) -> dict[Job, Report]:
    """The reports of the jobs; some are missing if Ctrl-C ended it early."""
    from contextlib import closing, nullcontext

    from rich.console import Console

    from cli.interrupts import StopSwitch
    from cli.sim_view import SimProgress
    from cli.simulations import Finished, simulate
    from cli.terminal import keys_unseen
    from overlay.sim.run import run

    finished: dict[Job, Report] = {}
    console = Console(stderr=True)
    progress = SimProgress(console, jobs, scenario.warm_up + scenario.requests)
    quiet = keys_unseen() if console.is_terminal else nullcontext()
    runs = closing(simulate(scenario, jobs, run))
    try:
        with StopSwitch() as switch, quiet, progress, runs as news:
            for event in switch.each(news):
                progress(event)
                if isinstance(event, Finished):
                    finished[event.job] = event.report
    except KeyboardInterrupt:
        pass
    return finished


#: policy -> seed -> report
_Reports = dict[str, "dict[int, Report]"]


def _together(reports: _Reports) -> list[Report]:
    from overlay.sim.outcome import Report

    return [Report.together(list(by_seed.values())) for by_seed in reports.values() if by_seed]


def _print_results(scenario: Scenario, seeds: range, reports: _Reports, as_json: bool) -> None:
    together = _together(reports)
    if as_json:
        fields = _json(scenario, seeds)
        fields["policies"] = [report.as_json() for report in together]
        if len(seeds) > 1:
            for policy in fields["policies"]:
                runs = reports[policy["policy"]].items()
                policy["by_seed"] = {str(seed): report.as_json() for seed, report in runs}
        print_json(fields)
        return
    if not together:
        return
    from rich.console import Console

    from cli.sim_view import result_view
    from cli.text import wrap_parts

    console = Console()
    for line in wrap_parts(_setting(scenario, seeds), console.width):
        console.print(line, style="dim", highlight=False, markup=False)
    console.print()
    asked = scenario.requests * max(map(len, reports.values()))
    console.print(result_view(together, console.width, asked=asked))


def _setting(scenario: Scenario, seeds: range) -> list[str]:
    from cli.text import count, printable

    links, churn = scenario.links, scenario.churn
    speeds = ", ".join(f"{speed:g}" for speed in scenario.speeds)
    return [
        printable(scenario.workload.name),
        count(scenario.nodes, "node"),
        f"RTT {scenario.rtt_ms:g} ms",
        *([f"jitter {links.jitter:.0%}"] if links.jitter else []),
        *([f"loss {links.loss:.1%}"] if links.loss else []),
        *([f"uplinks of {links.bandwidth / 1e6:g} Mbit/s"] if links.bandwidth else []),
        *([f"speeds {speeds}"] if scenario.speeds != (1.0,) else []),
        *([f"nodes up for {churn.up_s / 60:g} min"] if churn.up_s < math.inf else []),
        *([f"split after {churn.whole_s / 60:g} min"] if churn.whole_s < math.inf else []),
        f"load {scenario.load:.0%}",
        count(scenario.requests, "request"),
        f"cache {scenario.cells:,} tokens",
        f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}",
    ]


def _json(scenario: Scenario, seeds: range) -> dict[str, Any]:
    return {
        "workload": scenario.workload.name,
        "nodes": scenario.nodes,
        "rtt_ms": scenario.rtt_ms,
        "jitter": scenario.links.jitter,
        "loss": scenario.links.loss,
        "bandwidth_mbit_s": scenario.links.bandwidth / 1e6 or None,
        "speeds": list(scenario.speeds),
        "churn_minutes": _minutes(scenario.churn.up_s),
        "split_minutes": _minutes(scenario.churn.whole_s),
        "load": scenario.load,
        "requests": scenario.requests,
        "cache_tokens": scenario.cells,
        "seeds": list(seeds),
    }


def _minutes(seconds: float) -> float | None:
    return seconds / 60 if seconds < math.inf else None


def _print_listing(as_json: bool, *, workloads: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from overlay.sim.workloads.parameters import described
    from overlay.sim.workloads.registry import KINDS

    kinds = {name: described(kind) for name, kind in KINDS.items()}
    if as_json:
        listed = {"policies": summaries(), **({"workloads": kinds} if workloads else {})}
        print_json(listed)
        return
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, summary in summaries().items():
        table.add_row(name, summary)
    if workloads:
        table.add_row()
        for name, parameters in kinds.items():
            table.add_row(name, parameters)
    Console().print(table, highlight=False, markup=False)
