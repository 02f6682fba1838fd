"""Simulations in parallel: one process for each core, and news of them as they come."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from overlay.errors import HearthError, from_code
from overlay.sim.outcome import Report
from overlay.sim.run import Scenario

#: Simulates; the last argument is told how many requests were answered so far.
Run = Callable[[Scenario, str, int, Callable[[int], None]], Report]


class Job(NamedTuple):
    """A run to be made: of ``policy``, with ``seed``."""

    policy: str
    seed: int


class Answered(NamedTuple):
    """So many requests of a job were answered."""

    job: Job
    requests: int


class Finished(NamedTuple):
    """A job is done."""

    job: Job
    report: Report


class _Failed(NamedTuple):
    """What a job raised. ``code``: of a HearthError; ``trace``: for those who look for a bug."""

    code: str | None
    message: str
    trace: str


@dataclass(eq=False, slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection[Any, Any]
    job: Job


def simulate(
    scenario: Scenario, jobs: Sequence[Job], run: Run, processes: int | None = None
) -> Generator[Answered | Finished, None, None]:
    """Run the jobs, in order, on ``processes`` processes (default: one for each core).

    Close the generator to end what is under way. Raises the HearthError that a run raised, and
    RuntimeError for any other, or if a process dies.
    """
    waiting = list(reversed(jobs))
    working: dict[Connection[Any, Any], _Worker] = {}
    try:
        while waiting and len(working) < (processes or os.cpu_count() or 1):
            worker = _start(scenario, run, waiting.pop())
            working[worker.pipe] = worker
        while working:
            for pipe in wait(list(working)):
                assert isinstance(pipe, Connection)
                worker = working[pipe]
                news = _heard(worker)
                if isinstance(news, int):
                    yield Answered(worker.job, news)
                    continue
                yield Finished(worker.job, news)
                if waiting:
                    worker.job = waiting.pop()
                    pipe.send(worker.job)
                else:
                    _end(working.pop(pipe))
    finally:
        for worker in working.values():
            _end(worker)


def _heard(worker: _Worker) -> int | Report:
    try:
        news = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        raise RuntimeError(
            f"the process that simulated {worker.job.policy} died "
            f"(exit code {worker.process.exitcode})"
        ) from None
    if isinstance(news, _Failed):
        if news.code is not None:
            raise from_code(news.code, news.message)
        error = RuntimeError(f"{news.message}, simulating {worker.job.policy}")
        error.add_note(news.trace)
        raise error
    assert isinstance(news, (int, Report))
    return news


def _start(scenario: Scenario, run: Run, job: Job) -> _Worker:
    # A fresh interpreter: a fork would inherit the locks of the thread that draws progress bars.
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, scenario, run, job), daemon=True)
    # Ctrl-C goes to all processes of a terminal. Only this one shall hear it: children inherit
    # what is blocked, and a press that comes meanwhile arrives afterwards.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return _Worker(process, ours, job)


def _end(worker: _Worker) -> None:
    worker.process.terminate()
    worker.process.join()
    worker.pipe.close()


def _work(pipe: Connection[Any, Any], scenario: Scenario, run: Run, job: Job) -> None:
    """A child's life: run the job, say so, take the next one."""
    try:
        while True:
            try:
                news: Report | _Failed = run(scenario, job.policy, job.seed, pipe.send)
            except (BrokenPipeError, EOFError):
                raise
            except Exception as error:
                code = error.code if isinstance(error, HearthError) else None
                message = str(error) if code else repr(error)
                news = _Failed(code, message, traceback.format_exc())
            pipe.send(news)
            job = pipe.recv()
    except (BrokenPipeError, EOFError, ConnectionResetError):
        # Nobody waits for the result any more.
        return
