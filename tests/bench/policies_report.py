"""What a run of the policies says, as a table and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean, median
from typing import Final

from overlay.sim.outcome import Report
from tests.bench.bench_policies import CLIENTS, Comparison
from tests.bench.report import markdown

#: Hit rates that differ by no more agree.
AGREE: Final = 0.05
_TIMES: Final = ("mean", "p50", "p95")


def table(comparison: Comparison) -> str:
    """One row per policy, in the order in which they ran."""
    rows = []
    for each in comparison.policies:
        real, simulated = each.real, each.simulated
        rows.append(
            (
                each.figures.policy,
                f"{real.hit_rate:.1%}",
                *(f"{getattr(real.ttft_ms, of):,.0f}" for of in _TIMES),
                f"{real.forwards}",
                f"{real.imbalance:.2f}",
                f"{simulated.hit_rate:.1%}",
                *(f"{getattr(simulated.ttft_ms, of):,.0f}" for of in _TIMES),
            )
        )
    measured = ("hit rate", "TTFT mean, ms", "p50", "p95", "forwards", "imbalance")
    return markdown(
        ("policy", *measured, "simulated: hit rate", "TTFT mean, ms", "p50", "p95"), rows
    )


def remarks(comparison: Comparison) -> list[str]:
    """The facts beside the table, and whether the simulator agrees, a sentence each."""
    setup, policies = comparison.setup, comparison.policies
    lengths = [len(request.prompt.tokens) for request in comparison.requests]
    subjects = len({request.subject for request in comparison.requests})
    rates = [rate for each in policies for rate in each.figures.prefill_rates]
    rtt_ms = median(rtt for each in policies for rtt in each.figures.rtt_ms)
    apart = max(abs(each.real.hit_rate - each.simulated.hit_rate) for each in policies)
    by_real = _order({each.figures.policy: each.real for each in policies})
    by_simulated = _order({each.figures.policy: each.simulated for each in policies})
    agrees = "so it is" if by_real == by_simulated else f"{', '.join(by_simulated)}"
    return [
        f"{len(lengths)} requests under {subjects} subjects' prefixes, prompts of {min(lengths)} "
        f"to {max(lengths)} tokens; the first tenth fills the caches and does not count.",
        f"{setup.nodes} nodes with {setup.cells:,} KV cells and {setup.threads} thread each; "
        f"{CLIENTS} requests at a time; {mean(rates):.0f} prompt tokens per second and node.",
        f"A link's round trip takes {rtt_ms:.0f} ms: {setup.delay_ms:.0f} ms each way, up to "
        f"{setup.jitter_ms:.0f} ms of jitter, and the nodes' own.",
        f"Real and simulated hit rates differ by {apart * 100:.1f} points at most, which is "
        f"{'within' if apart <= AGREE else 'more than'} {AGREE * 100:.0f}.",
        f"By mean TTFT, best first: {', '.join(by_real)}; in the simulator {agrees}.",
    ]


def _order(reports: Mapping[str, Report]) -> list[str]:
    return sorted(reports, key=lambda policy: reports[policy].ttft_ms.mean)
