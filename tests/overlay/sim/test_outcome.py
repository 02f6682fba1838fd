from __future__ import annotations

import json
import random
from typing import Any

import pytest

from overlay.sim.outcome import Counters, Outcome, Report

IDLE = Counters((), 0, 0)


def outcome(request: int, ttft_ms: float = 100.0, **changed: Any) -> Outcome:
    plain = Outcome(request, 0, 0, 0, float(request), ttft_ms, 2 * ttft_ms, 1000, 250, 0, False)
    return plain._replace(**changed)


def test_a_run_in_short() -> None:
    outcomes = [outcome(number, ttft_ms=number + 1.0) for number in range(100)]
    outcomes[7] = outcome(7, ttft_ms=8.0, hops=2, cached_tokens=1000)
    random.Random(1).shuffle(outcomes)
    report = Report.of("cost", outcomes, Counters([3.0, 1.0], 5000, 4), warm_up=0)
    assert (report.requests, report.failed, report.forwards) == (100, 0, 2)
    assert report.hit_rate == pytest.approx((99 * 250 + 1000) / 100_000)
    assert report.imbalance == pytest.approx(1.5)
    assert (report.ttft_ms.mean, report.ttft_ms.p50) == (50.5, 50.5)
    assert (report.ttft_ms.p95, report.ttft_ms.p99) == pytest.approx((95.05, 99.01))
    assert (report.gossip_bytes, report.blind) == (5000, 4)


def test_the_first_requests_warm_the_caches_and_do_not_count() -> None:
    outcomes = [outcome(number, ttft_ms=1000.0 if number < 10 else 1.0) for number in range(100)]
    report = Report.of("cost", reversed(outcomes), IDLE)
    assert report.requests == 90
    assert report.ttft_ms.p99 == 1.0
    # As a share of them, 16 of 49 is a little less than that.
    assert Report.of("cost", outcomes[:49], IDLE, warm_up=16 / 49).requests == 33


def test_failed_requests_count_as_failed_only() -> None:
    failed = outcome(1, ttft_ms=0.0, cached_tokens=1000, hops=3, failed=True)
    report = Report.of("cost", [outcome(0), failed], IDLE, warm_up=0)
    assert (report.requests, report.failed, report.forwards) == (2, 1, 0)
    assert report.ttft_ms.mean == 100
    assert report.hit_rate == 0.25


def test_json_has_plain_types_and_null_where_nothing_was_counted() -> None:
    empty = Report.of("cost", [], IDLE)
    nothing = {"mean": None, "p50": None, "p95": None, "p99": None}
    assert json.loads(json.dumps(empty.as_json())) == {
        "policy": "cost",
        "requests": 0,
        "failed": 0,
        "hit_rate": 0.0,
        "ttft_ms": nothing,
        "imbalance": 1.0,
        "forwards": 0,
        "gossip_bytes": 0,
        "blind": 0,
    }


def test_several_runs_together() -> None:
    one = Report.of("cost", [outcome(0, 10.0)], Counters([1.0, 1.0], 10, 1), warm_up=0)
    other = Report.of(
        "cost", [outcome(0, 30.0, cached_tokens=750)], Counters([2.0, 0.0], 20, 0), warm_up=0
    )
    both = Report.together([one, other])
    assert (both.policy, both.requests, both.gossip_bytes, both.blind) == ("cost", 2, 30, 1)
    assert both.hit_rate == 0.5
    assert both.imbalance == 1.5
    assert list(both.ttfts_ms) == [10.0, 30.0]
