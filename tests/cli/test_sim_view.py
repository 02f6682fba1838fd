from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cli.sim_view import SimProgress, result_view, times_plot
from cli.simulations import Answered, Finished, Job
from overlay.sim.outcome import Report
from tests.cli.fake_run import fake_report


def shown(reports: list[Report], width: int = 80, **options: Any) -> str:
    screen = io.StringIO()
    Console(file=screen, width=width, **options).print(result_view(reports, width, asked=20))
    return screen.getvalue()


def answered(policy: str, *ttfts_ms: float) -> Report:
    return replace(fake_report(policy), ttfts_ms=np.array(sorted(ttfts_ms)))


def test_a_workload_that_ends_early_is_no_surprise() -> None:
    assert "came" not in shown([fake_report("hearth")])
    assert "only 5 of 20 requests came" in shown([fake_report("hearth", requests=5)])


def test_it_fits_into_80_columns() -> None:
    slow = replace(
        answered("longest-match-threshold", *[400_000.0] * 9, 9e6),
        forwards=1_234_567,
        gossip_bytes=123_456_789_012,
        imbalance=31.25,
    )
    text = shown([slow, fake_report("hearth")])
    assert max(len(line) for line in text.splitlines()) <= 80
    for part in ("1,234,567", "123.5 GB", "31.25", "400 s"):
        assert part in text


def test_a_narrow_terminal_shows_which_policy_has_which_figures() -> None:
    lines = shown([fake_report("longest-match-threshold")], width=40).splitlines()
    assert lines[1].split() == ["policy", "rate", "mean", "p95"]
    assert lines[2].startswith("longest-match-")


def test_the_best_stands_out_where_one_is_better() -> None:
    reports = [fake_report("a"), fake_report("b")]
    text = shown(reports, force_terminal=True, color_system="standard")
    bold = "\x1b[1;32m"
    row_a, row_b = [line for line in text.splitlines() if line.startswith(("a ", "b "))][:2]
    assert row_a.count(bold) == 5
    assert bold not in row_b


def test_failures_are_said_and_nothing_to_plot_is_no_error() -> None:
    dead = replace(fake_report("dead"), failed=20, ttfts_ms=np.array([]), prompt_tokens=0)
    text = shown([dead])
    assert "dead: 20 of 20 requests failed" in text
    assert "time to first token" not in text
    assert "no request was answered" in shown([dead, fake_report("a")])


def test_a_plot_has_marks_in_order_above_their_numbers() -> None:
    ttfts = [100.0] * 50 + [200.0] * 40 + [1000.0] * 8 + [5000.0] * 2
    title, line, ticks, numbers = times_plot([answered("a", *ttfts)], 80).plain.splitlines()
    assert title.startswith("time to first token")
    assert [c for c in line if c in "●◆┃╴"] == ["●", "◆", "┃", "╴"]
    second = numbers.index("1 s") + 1
    assert ticks[second] == "┬"
    # The 95th percentile is 1 s.
    assert line.index("┃") == second
    assert line.index("╴") > second > line.index("◆")


@pytest.mark.parametrize("width", [30, 80, 300])
@pytest.mark.parametrize("ttfts", [(0.0,), (250.0,), (0.2, 3e7), (999.0, 1001.0)])
def test_any_times_make_a_plot(width: int, ttfts: tuple[float, ...]) -> None:
    lines = times_plot([answered("a", *ttfts)], width).plain.splitlines()
    assert "◆" in lines[1]
    assert max(map(len, lines[1:])) <= max(width, 24)


def test_bars_count_all_seeds_of_a_policy() -> None:
    jobs = [Job(policy, seed) for seed in (1, 2) for policy in ("a", "b")]
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with SimProgress(console, jobs, 100) as progress:
        progress(Answered(jobs[0], 50))
        progress(Finished(jobs[2], fake_report("a", 2)))
    assert " 75%" in screen.getvalue()


def test_no_bars_without_a_terminal() -> None:
    screen = io.StringIO()
    with SimProgress(Console(file=screen, width=80), [Job("a", 1)], 100) as progress:
        progress(Answered(Job("a", 1), 50))
    assert screen.getvalue() == ""
