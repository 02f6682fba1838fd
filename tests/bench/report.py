"""What a run of the benchmarks says: samples to figures, figures to Markdown."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import psutil

from tests.bench.bench_ttft import CASES, COLD_HOME, FORWARDED, HOT_HOME, Figures


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def middle(rounds: Iterable[float]) -> str:
    """The median of one round at least, and the lowest and the highest."""
    ordered = sorted(rounds)
    return f"{statistics.median(ordered):.2f} ({ordered[0]:.2f} to {ordered[-1]:.2f})"


def machine() -> str:
    """What the figures depend on."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 0
    memory_gb = psutil.virtual_memory().total / 1e9
    return (
        f"{_processor()}, {cores} cores ({os.cpu_count()} threads), {memory_gb:.0f} GB; "
        f"{platform.platform(terse=True)}; Python {platform.python_version()}; "
        f"llama-cpp-python {metadata.version('llama-cpp-python')}; "
        f"load average before the run {psutil.getloadavg()[0]:.1f}"
    )


def _processor() -> str:
    """The processor's name; /proc knows it better than `platform` does on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def ttft_table(figures: Figures) -> str:
    """One row per case, in the order in which a round asks them."""
    base_ms = statistics.median(_of(figures, COLD_HOME))
    rows = []
    for case in CASES:
        samples = [s for s in figures.samples if s.case == case]
        seen_ms = [s.ttft_ms for s in samples]
        told_ms = [s.told_ms for s in samples if s.told_ms is not None]
        cached = [s.cached_tokens for s in samples if s.cached_tokens is not None]
        median_ms = statistics.median(seen_ms)
        rows.append(
            (
                case,
                str(len(samples)),
                f"{statistics.median(cached):.0f}" if cached else "",
                f"{median_ms:,.0f}",
                f"{percentile(seen_ms, 0.9):,.0f}",
                f"{statistics.median(told_ms):,.0f}" if told_ms else "",
                f"{median_ms / base_ms:.3f}",
            )
        )
    return markdown(
        (
            "case",
            "rounds",
            "cached tokens",
            "median TTFT, ms",
            "p90, ms",
            "median `ttft_ms` told, ms",
            "ratio to cold at home",
        ),
        rows,
    )


def ttft_remarks(figures: Figures) -> list[str]:
    """The facts beside the table, a sentence each."""
    lengths = [s.prompt_tokens for s in figures.samples]
    added_ms = [
        forwarded - hot
        for forwarded, hot in zip(_of(figures, FORWARDED), _of(figures, HOT_HOME), strict=True)
    ]
    shortest, longest = min(lengths), max(lengths)
    length = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
    rtt_ms = statistics.median(figures.rtt_ms)
    gossip_ms = statistics.median(figures.gossip_ms)
    return [
        f"Prompts of {length} tokens; {figures.threads} threads.",
        f"Forwarding adds {statistics.median(added_ms):.1f} ms to a hot answer's TTFT (median of "
        f"the rounds); the link's round trip takes {rtt_ms:.1f} ms.",
        f"The cold node knows of the warm one's new blocks {gossip_ms:.0f} ms after the answer "
        f"(median; at most {max(figures.gossip_ms):.0f} ms).",
    ]


def lag_table(rows: Sequence[Mapping[str, float | str]]) -> str:
    """How late the event loop ran, for each way to decode beside it."""
    return markdown(
        ("what decodes", "loop lag p50, ms", "p99, ms", "max, ms", "tokens/s"),
        [[str(value) for value in row.values()] for row in rows],
    )


def _of(figures: Figures, case: str) -> list[float]:
    return [s.ttft_ms for s in figures.samples if s.case == case]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: the first column to the left, figures to the right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
