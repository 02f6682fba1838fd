"""Measure what docs/explanation/benchmarks.md tells: ``python -m tests.bench``, or ``make bench``.

Figures mean something on a machine that does nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from overlay.errors import ConfigError
from tests.bench import (
    bench_fairness,
    bench_gossip,
    bench_idle,
    bench_index,
    bench_links,
    bench_loop_lag,
    bench_policies,
    bench_regret,
    bench_saturation,
    bench_scale,
    bench_ttft,
    engine_report,
    engines,
    llama_server,
    models,
    policies_report,
    report,
    sglang_router,
)
from tests.bench.setting import Setting
from tests.bench.workload import Vocabulary


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure with. Slow ones get fewer rounds, so that the whole run stays short."""

    title: str
    path: Callable[[], Path]
    rounds: int


SUBJECTS = {
    "demo": Subject("Demo model (SmolLM2-135M, Q4_1)", models.demo, 8),
    "half": Subject("0.5 B parameters (random weights, Q8_0)", models.half_billion, 5),
}
QUICK_ROUNDS = 3
#: Answers that stream at once while the event loop's lag is taken, and for how long.
LAG_STREAMS = 4
LAG_SECONDS = 5.0
QUICK_LAG_SECONDS = 2.0
#: The models of each part, unless told otherwise.
PARTS = {
    "mesh": tuple(SUBJECTS),
    "engine": ("half",),
    "policies": ("half",),
    "fairness": ("half",),
    "index": (),
    "gossip": (),
    "links": (),
    "saturation": (),
    "scale": (),
    "idle": (),
    "regret": (),
}


def main() -> None:
    try:
        measure(asked(sys.argv[1:]))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def asked(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with ``only`` and ``plan`` made of them; ends the process if they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "part", nargs="?", choices=[*PARTS, "all"], default="all", help="what to measure [all]"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds of everything")
    parser.add_argument("--model", choices=[*SUBJECTS, "all"])
    parser.add_argument(
        "--only", metavar="NAMES", help=f"of the engine: some of {','.join(engines.SCENARIOS)}"
    )
    parser.add_argument("--minutes", type=float, help="of saturation: how long before the kills")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample here too")
    bench_regret.add_options(parser)
    options = parser.parse_args(arguments)
    options.only = tuple(options.only.split(",")) if options.only else engines.SCENARIOS
    if unknown := set(options.only) - set(engines.SCENARIOS):
        parser.error(f"--only knows no {', '.join(sorted(unknown))}")
    # Not after hours of measuring.
    if options.json is not None and not options.json.parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.parent}")
    try:
        options.plan = bench_regret.plan_of(options)
    except (ValueError, ConfigError) as error:
        parser.error(str(error))
    return options


def measure(options: argparse.Namespace) -> None:
    """One part, or all; prints what comes of it."""
    begun_s = time.monotonic()
    console = Console(stderr=True)
    results: dict[str, Any] = {}
    alone: dict[str, Any] = {}
    machine = report.machine()
    print(f"Machine: {machine}")
    print(f"Command: {shlex.join(['python', '-m', 'tests.bench', *sys.argv[1:]])}")
    by_themselves = {
        "index": partial(_index, options.quick),
        "gossip": partial(_gossip, options.quick),
        "saturation": partial(_saturation, options.quick, options.minutes),
        "links": partial(_links, options.quick),
        "scale": partial(_scale, options.quick),
        "idle": partial(_idle, options.quick),
        "regret": partial(_regret, options.plan),
    }
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        for part in PARTS if options.part == "all" else (options.part,):
            if part in by_themselves:
                alone[part] = by_themselves[part](progress)
                continue
            chosen = {None: PARTS[part], "all": tuple(SUBJECTS)}.get(
                options.model, (options.model,)
            )
            server = _server(console) if part == "engine" else None
            for name in chosen:
                told = results.setdefault(name, {})
                if part == "mesh":
                    told |= _mesh(SUBJECTS[name], options.quick, progress)
                elif part == "policies":
                    told["policies"] = _policies(SUBJECTS[name], options.quick, console, progress)
                elif part == "fairness":
                    told["fairness"] = _fairness(SUBJECTS[name], options.quick, progress)
                else:
                    told["engine"] = _engine(
                        SUBJECTS[name], server, options.quick, options.only, progress
                    )
    print(f"\nIn all {time.monotonic() - begun_s:.0f} s.")
    if options.json is not None:
        told = {"machine": machine, "models": results, **alone}
        options.json.write_text(json.dumps(told, indent=2) + "\n")


@contextmanager
def _counted(progress: Progress, what: str, total: int) -> Iterator[Callable[[], None]]:
    """A line of progress while it lasts; call what it gives after each of ``total`` steps."""
    task = progress.add_task(what, total=total)
    yield lambda: progress.advance(task)
    progress.remove_task(task)


def _index(quick: bool, progress: Progress) -> dict[str, Any]:
    """The index of everybody's blocks beside its rival; prints the tables."""
    rounds = 2 if quick else bench_index.ROUNDS
    total = rounds * len(bench_index.SCENARIOS)
    with _counted(progress, "Index of blocks", total) as advance:
        told = bench_index.measure(rounds, advance)
    print(f"\n## Index of blocks\n\n{bench_index.tables(told)}")
    return told


def _gossip(quick: bool, progress: Progress) -> dict[str, Any]:
    """How news spread beside rivals, and what it costs; prints the tables."""
    with _counted(progress, "Anti-entropy", bench_gossip.runs(quick)) as advance:
        told = bench_gossip.measure(quick, advance)
    print(f"\n## Anti-entropy\n\n{bench_gossip.tables(told)}")
    return told


def _saturation(quick: bool, minutes: float | None, progress: Progress) -> dict[str, Any]:
    """Failure detection while all nodes decode flat out; prints the table."""
    kills = bench_saturation.QUICK_KILLS if quick else bench_saturation.KILLS
    if minutes is None:
        minutes = bench_saturation.QUICK_MINUTES if quick else bench_saturation.MINUTES
    task = progress.add_task("Saturation", total=1 + kills)
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        figures = asyncio.run(
            bench_saturation.measure(
                models.demo(), minutes, kills, lambda: progress.advance(task), Path(folder)
            )
        )
    progress.remove_task(task)
    print(f"\n## Saturation\n\n{bench_saturation.table(figures)}\n")
    print("\n".join(f"- {remark}" for remark in bench_saturation.remarks(figures)))
    return bench_saturation.as_json(figures)


def _links(quick: bool, progress: Progress) -> dict[str, Any]:
    """Round trips beside rivals; streams at home, over a hop, through a relay. Prints tables."""
    with _counted(progress, "Links", 2 * bench_links.rounds(quick)) as advance:
        told = bench_links.run(quick, advance)
    print(f"\n## Links\n\n{bench_links.tables(told)}")
    return told


def _scale(quick: bool, progress: Progress) -> dict[str, Any]:
    """Many real nodes beside as many simulated ones; prints the tables."""
    with _counted(progress, "Scale", bench_scale.runs(quick)) as advance:
        told = bench_scale.measure(quick, advance)
    print(f"\n## Scale\n\n{bench_scale.tables(told)}")
    return told


def _idle(quick: bool, progress: Progress) -> dict[str, Any]:
    """What a node takes of the CPU when nothing is asked; prints the table."""
    with _counted(progress, "Idle", bench_idle.runs(quick)) as advance:
        told = bench_idle.measure(models.demo(), quick, advance)
    print(f"\n## Idle\n\n{bench_idle.table(told)}")
    return {**told}


def _regret(plan: bench_regret.Plan, progress: Progress) -> dict[str, Any]:
    """Hearth's policy beside all others in simulated meshes; prints the tables."""

    def begin(phase: str, runs: int) -> Callable[[], None]:
        task = progress.add_task(f"No regret: {phase}", total=runs)
        return lambda: progress.advance(task)

    comparison = bench_regret.measure(plan, begin)
    print(f"\n## No regret\n\n{bench_regret.tables(comparison)}")
    return bench_regret.as_json(comparison)


def _server(console: Console) -> Path | None:
    """The rival of the engine; without it the engine is measured alone."""
    try:
        return llama_server.find(lambda line: console.print(line, highlight=False))
    except llama_server.NoLlamaServer as error:
        print(f"\nWithout llama-server: {error}")
        return None


def _engine(
    subject: Subject,
    server: Path | None,
    quick: bool,
    only: tuple[str, ...],
    progress: Progress,
) -> dict[str, Any]:
    """The engine beside its rivals; prints the table."""
    path = subject.path()
    threads = psutil.cpu_count(logical=False) or 1
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        setting = Setting(path, Vocabulary(path), threads, server, Path(folder), quick)
        figures = engines.measure(setting, only, subject.title, progress)
    print(f"\n## Engine: {subject.title}\n\n{engine_report.table(figures)}\n")
    print("\n".join(f"- {remark}" for remark in engine_report.remarks(figures, setting)))
    return asdict(figures)


def _mesh(subject: Subject, quick: bool, progress: Progress) -> dict[str, Any]:
    """Two nodes with one model; prints the tables as they come."""
    rounds = min(subject.rounds, QUICK_ROUNDS) if quick else subject.rounds
    task = progress.add_task(f"{subject.title}: preparing", total=rounds + 2)
    path = subject.path()
    progress.update(task, description=f"{subject.title}: time to first token")
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        figures = asyncio.run(
            bench_ttft.measure(path, rounds, lambda: progress.advance(task), Path(folder))
        )
    print(f"\n## Mesh: {subject.title}\n\n{report.ttft_table(figures)}\n")
    print("\n".join(f"- {remark}" for remark in report.ttft_remarks(figures)))

    progress.update(task, description=f"{subject.title}: lag of the event loop")
    seconds = QUICK_LAG_SECONDS if quick else LAG_SECONDS
    lags = asyncio.run(bench_loop_lag.run(path, LAG_STREAMS, seconds))
    print(f"\n{report.lag_table(lags)}")
    progress.remove_task(task)
    return {"time_to_first_token": asdict(figures), "loop_lag": lags}


def _policies(
    subject: Subject, quick: bool, console: Console, progress: Progress
) -> dict[str, Any]:
    """Four nodes under one policy after the other, and the simulator's opinion."""
    router: Path | None = None
    try:
        router = sglang_router.find(lambda line: console.print(line, highlight=False))
    except sglang_router.NoSglangRouter as error:
        print(f"\nWithout sglang-router: {error}")
    plan = bench_policies.QUICK_PLAN if quick else bench_policies.PLAN
    lists = bench_policies.QUICK_LISTS if quick else bench_policies.LISTS

    def begin(run: str) -> Callable[[], None]:
        task = progress.add_task(f"{subject.title}: {run}", total=plan.requests)
        return lambda: progress.advance(task)

    comparison = bench_policies.compare(subject.path(), plan, lists, router, begin)
    print(f"\n## Policies on real nodes: {subject.title}\n\n{policies_report.table(comparison)}\n")
    print("\n".join(f"- {remark}" for remark in policies_report.remarks(comparison)))
    return {each.policy: [asdict(one) for one in each.figures] for each in comparison.policies}


def _fairness(subject: Subject, quick: bool, progress: Progress) -> dict[str, Any]:
    """An owner beside three friends; prints the table."""
    pairs = bench_fairness.QUICK_PAIRS if quick else bench_fairness.PAIRS
    total = 2 * pairs * bench_fairness.REQUESTS
    task = progress.add_task(f"{subject.title}: an owner and friends", total=total)
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        figures = asyncio.run(
            bench_fairness.measure(
                subject.path(), pairs, lambda: progress.advance(task), Path(folder)
            )
        )
    print(f"\n## Fairness: {subject.title}\n\n{bench_fairness.table(figures)}\n")
    print("\n".join(f"- {remark}" for remark in bench_fairness.remarks(figures)))
    return asdict(figures)


if __name__ == "__main__":
    main()
