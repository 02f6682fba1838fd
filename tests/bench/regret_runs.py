"""Simulating the cells of the no-regret grid, each once: results are kept in a file."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from overlay.sim.outcome import Report
from overlay.sim.run import HEARTH, run
from tests.bench.regret_ablations import ABLATIONS
from tests.bench.regret_grid import Cell


@dataclass(frozen=True, slots=True)
class Job:
    """A run: ``policy`` is HEARTH, an ablation of it, or a rival."""

    cell: Cell
    policy: str
    seed: int

    def key(self) -> dict[str, Any]:
        """All that the result depends on, but for the code."""
        scenario = self.cell.scenario()
        return {
            **asdict(self.cell),
            "workload": scenario.workload.name,
            "cells": scenario.cells,
            "requests": scenario.requests,
            "warm_up": scenario.warm_up,
            "policy": self.policy,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """A run's. Times to first token in ms; ``failed``: requests without an answer."""

    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    hit_rate: float
    imbalance: float
    forwards: int
    gossip_bytes: int
    failed: int
    cpu_s: float


class Results:
    """What is known, by job. With a ``path``, it is kept there as JSON lines as it comes.

    Results of the policies ``again`` are forgotten, in the file as well. So is a last line that was
    cut off as it was written.
    """

    def __init__(self, path: Path | None, again: Sequence[str] = ()) -> None:
        self._path = path
        self._known: dict[str, Figures] = {}
        if path is None or not path.exists():
            return
        lines = path.read_text().splitlines(keepends=True)
        kept = []
        for line in lines:
            if not line.endswith("\n"):
                break
            record = json.loads(line)
            if record["policy"] not in again:
                kept.append(line)
                figures = Figures(**{f.name: record.pop(f.name) for f in fields(Figures)})
                self._known[json.dumps(record, sort_keys=True)] = figures
        if len(kept) < len(lines):
            fresh = path.with_name(f"{path.name}.new")
            fresh.write_text("".join(kept))
            fresh.replace(path)

    def of(self, job: Job) -> Figures | None:
        """The job's figures, if it is done."""
        return self._known.get(_written(job))

    def add(self, job: Job, figures: Figures) -> None:
        """The job is done."""
        self._known[_written(job)] = figures
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({**job.key(), **asdict(figures)}) + "\n")


def simulate(
    jobs: Iterable[Job], results: Results, processes: int, done: Callable[[], None]
) -> None:
    """Do the ``jobs``, in order; ``done`` is called after each."""
    # Fresh interpreters: a fork would inherit the locks of the thread that draws progress bars.
    # Ctrl-C, which all processes of a terminal hear, is for this one: a worker that it meets while
    # it waits for work takes the queue's lock with it.
    with ProcessPoolExecutor(
        processes, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        futures = {pool.submit(simulated, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                results.add(futures[future], future.result())
                done()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                worker.terminate()
            raise


def simulated(job: Job) -> Figures:
    """One run."""
    begun_s = time.process_time()
    if job.policy in ABLATIONS:
        with ABLATIONS[job.policy].applied():
            report = run(job.cell.scenario(), HEARTH, job.seed)
    else:
        report = run(job.cell.scenario(), job.policy, job.seed)
    return _figures(report, time.process_time() - begun_s)


def _figures(report: Report, cpu_s: float) -> Figures:
    spread = report.ttft_ms
    return Figures(
        mean_ms=round(spread.mean, 3),
        p50_ms=round(spread.p50, 3),
        p95_ms=round(spread.p95, 3),
        p99_ms=round(spread.p99, 3),
        hit_rate=round(report.hit_rate, 5),
        imbalance=round(report.imbalance, 4),
        forwards=report.forwards,
        gossip_bytes=report.gossip_bytes,
        failed=report.failed,
        cpu_s=round(cpu_s, 2),
    )


def _written(job: Job) -> str:
    return json.dumps(job.key(), sort_keys=True)
