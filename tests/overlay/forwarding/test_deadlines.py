"""The heap against looking at every job."""

from __future__ import annotations

import gc
import math
import weakref

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.engine import Sampling
from overlay.forwarding.deadlines import TAKEN_MAX, Deadlines
from overlay.forwarding.job import Job

NUMBERS = st.integers(0, 5)
#: Few, so that many are equal.
TIMES = st.integers(0, 12).map(float)


class DeadlinesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[bytes, Job] = {}
        self.deadlines = Deadlines(self.jobs)
        self.now = 0.0
        #: Taken, and not told to wait again.
        self.taken: list[Job] = []

    def waiting(self) -> list[Job]:
        return [job for job in self.jobs.values() if job not in self.taken]

    @rule(number=NUMBERS, deadline=TIMES)
    def begin(self, number: int, deadline: float) -> None:
        request_id = bytes([number])
        if request_id not in self.jobs:
            job = Job(request_id, "m", "p", Sampling(), None, (), 2, self.now, deadline)
            self.jobs[request_id] = job
            self.deadlines.wait(job, deadline)

    @precondition(lambda self: self.jobs)
    @rule(number=NUMBERS, until=TIMES)
    def wait(self, number: int, until: float) -> None:
        job = self.jobs.get(bytes([number]))
        if job is not None:
            self.deadlines.wait(job, until)
            self.taken = [other for other in self.taken if other is not job]

    @precondition(lambda self: self.jobs)
    @rule(number=NUMBERS)
    def end(self, number: int) -> None:
        self.jobs.pop(bytes([number]), None)

    @precondition(lambda self: self.jobs)
    @rule(passing=TIMES)
    def take(self, passing: float) -> None:
        self.now += passing / 4
        due = [job for job in self.waiting() if job.due <= self.now]
        taken = self.deadlines.take(self.now)
        assert sorted(job.request_id for job in taken) == sorted(job.request_id for job in due)
        assert [job.due for job in taken] == sorted(job.due for job in due)
        self.taken += taken
        assert self.deadlines.next() > self.now

    @invariant()
    def none_is_due_before_the_next(self) -> None:
        soonest = self.deadlines.soonest
        due = min((job.due for job in self.waiting()), default=math.inf)
        assert soonest <= self.deadlines.next() <= due


TestDeadlines = DeadlinesMachine.TestCase


class Prompt(str):
    """One that can be watched."""


def a_job(number: int, deadline: float, prompt: str = "p") -> Job:
    return Job(number.to_bytes(4, "big"), "m", prompt, Sampling(), None, (), 2, 0.0, deadline)


def test_many_that_are_due_at_once_come_in_turns() -> None:
    jobs = {job.request_id: job for job in (a_job(number, 1.0) for number in range(3 * TAKEN_MAX))}
    deadlines = Deadlines(jobs)
    for job in jobs.values():
        deadlines.wait(job, 1.0)
    turns = []
    while deadlines.next() <= 1.0:
        turns.append(deadlines.take(1.0))
    assert [len(turn) for turn in turns] == [TAKEN_MAX] * 3
    assert [job for turn in turns for job in turn] == [*jobs.values()]


def test_jobs_that_are_over_are_let_go_at_once_and_their_entries_long_before_the_deadline() -> None:
    jobs: dict[bytes, Job] = {}
    deadlines = Deadlines(jobs)
    lasting = a_job(0, 1.0)
    jobs[lasting.request_id] = lasting
    deadlines.wait(lasting, 1.0)
    kept: weakref.WeakSet[Prompt] = weakref.WeakSet()
    for number in range(1, 1001):
        prompt = Prompt(number)
        kept.add(prompt)
        job = a_job(number, 600.0, prompt)
        jobs[job.request_id] = job
        deadlines.wait(job, 600.0)
        del jobs[job.request_id]
    del job, prompt
    gc.collect()
    assert not kept
    assert len(deadlines._entries) < 100
    del jobs[lasting.request_id]
    assert deadlines.next() == math.inf, "nobody is to be woken for what is over"
