"""What a simulation looks like from outside, in no time. Child processes import this."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from overlay.errors import ConfigError
from overlay.sim.outcome import Counters, Outcome, Report
from overlay.sim.run import Scenario


def fake_report(policy: str, seed: int = 1, requests: int = 20) -> Report:
    """Better the earlier the policy is in the alphabet; 10 ms slower for each seed."""
    ttft_ms = 100.0 * (ord(policy[0]) - ord("a") + 1) + 10 * seed
    cached = 640 - 20 * (ord(policy[0]) - ord("a"))
    outcomes = [
        Outcome(n, 0, 0, 1, float(n), ttft_ms + n, 2 * ttft_ms, 640, cached, 0, False)
        for n in range(requests)
    ]
    return Report.of(policy, outcomes, Counters([1.0, 1.0], 5000, 0), warm_up=0)


def fake_run(
    scenario: Scenario, policy: str, seed: int, on_progress: Callable[[int], None]
) -> Report:
    """A policy that is named for a mishap meets with it."""
    on_progress(scenario.requests // 2)
    match policy:
        case "wrong":
            raise ConfigError("this scenario is wrong")
        case "buggy":
            raise ZeroDivisionError("by zero")
        case "dying":
            os._exit(7)
        case "endless":
            signal.pause()
        case "deaf":
            os.kill(os.getpid(), signal.SIGINT)
    on_progress(scenario.requests)
    return fake_report(policy, seed, scenario.requests)
