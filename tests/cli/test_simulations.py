"""Runs in child processes."""

from __future__ import annotations

import multiprocessing
import traceback
from collections import Counter

import pytest

from cli.simulations import Answered, Finished, Job, simulate
from overlay.errors import ConfigError
from overlay.sim.run import Scenario
from overlay.sim.workloads.zipf import Zipf
from tests.cli.fake_run import fake_report, fake_run

SCENARIO = Scenario(Zipf(), requests=20)


def test_every_job_is_run_and_tells_how_far_it_is() -> None:
    jobs = [Job(policy, seed) for policy in ("a", "b") for seed in (1, 2, 3)]
    news = list(simulate(SCENARIO, jobs, fake_run, processes=2))
    reports = {event.job: event.report for event in news if isinstance(event, Finished)}
    assert set(reports) == set(jobs)
    for job, report in reports.items():
        assert report.as_json() == fake_report(*job).as_json()
        told = [e.requests for e in news if isinstance(e, Answered) and e.job == job]
        assert told == [10, 20]
    assert multiprocessing.active_children() == []


def test_a_job_begins_when_another_is_done() -> None:
    jobs = [Job("a", seed) for seed in range(3)]
    news = list(simulate(SCENARIO, jobs, fake_run, processes=1))
    assert [event.job.seed for event in news] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_what_a_run_says_is_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match="this scenario is wrong"):
        list(simulate(SCENARIO, [Job("endless", 1), Job("wrong", 1)], fake_run, processes=2))
    assert multiprocessing.active_children() == []


def test_a_bug_in_a_run_comes_with_its_traceback() -> None:
    with pytest.raises(RuntimeError) as caught:
        list(simulate(SCENARIO, [Job("buggy", 1)], fake_run))
    assert str(caught.value) == "ZeroDivisionError('by zero'), simulating buggy"
    assert "fake_run.py" in "".join(traceback.format_exception(caught.value))


def test_a_process_that_dies_is_no_wait_for_ever() -> None:
    with pytest.raises(RuntimeError, match=r"simulated dying died \(exit code 7\)"):
        list(simulate(SCENARIO, [Job("dying", 1)], fake_run))


def test_whoever_has_heard_enough_ends_the_runs() -> None:
    news = simulate(SCENARIO, [Job("endless", 1), Job("endless", 2)], fake_run, processes=2)
    told = Counter(type(next(news)) for _ in range(2))
    assert told == {Answered: 2}
    news.close()
    assert multiprocessing.active_children() == []


def test_ctrl_c_is_for_the_parent_alone() -> None:
    news = list(simulate(SCENARIO, [Job("deaf", 1)], fake_run))
    assert isinstance(news[-1], Finished)
