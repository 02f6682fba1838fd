"""What a run of the policies says, as a table and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from statistics import mean, median
from typing import Final

from tests.bench.bench_policies import CLIENTS, Compared, Comparison
from tests.bench.report import markdown

#: Hit rates that differ by no more agree.
AGREE: Final = 0.05
#: Mean times of the simulator that differ by a smaller factor promise no order.
LEVEL: Final = 1.1
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
    by_real = sorted(policies, key=lambda each: each.real.ttft_ms.mean)
    return [
        f"{len(lengths)} requests under {subjects} subjects' prefixes, prompts of {min(lengths)} "
        f"to {max(lengths)} tokens; the first tenth fills the caches and does not count.",
        f"{setup.nodes} nodes with {setup.cells:,} KV cells and {setup.threads} thread each; "
        f"{CLIENTS} requests at a time; {mean(rates):.0f} prompt tokens per second and node.",
        f"A link's round trip takes {rtt_ms:.0f} ms: {setup.delay_ms:.0f} ms each way, up to "
        f"{setup.jitter_ms:.0f} ms of jitter, and the nodes' own.",
        f"Real and simulated hit rates differ by {apart * 100:.1f} points at most, which is "
        f"{'within' if apart <= AGREE else 'more than'} {AGREE * 100:.0f}.",
        f"By mean TTFT, best first: {', '.join(each.figures.policy for each in by_real)}.",
        f"Where the simulator tells two policies' means at least {LEVEL - 1:.0%} apart, "
        f"{_contradictions(policies)}.",
    ]


def _contradictions(policies: Sequence[Compared]) -> str:
    """Which of the simulator's differences reality turns round."""
    wrong = [
        f"{slower.figures.policy} is no slower than {faster.figures.policy}"
        for slower, faster in permutations(policies, 2)
        if slower.simulated.ttft_ms.mean >= LEVEL * faster.simulated.ttft_ms.mean
        and slower.real.ttft_ms.mean <= faster.real.ttft_ms.mean
    ]
    return f"reality disagrees: {'; '.join(wrong)}" if wrong else "reality has the same order"
