"""What a run of the policies says, as a table and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Final

from overlay.sim.outcome import Report
from tests.bench.bench_policies import CLIENTS, Compared, Comparison
from tests.bench.policy_run import HEARTH
from tests.bench.report import markdown, middle

#: Hit rates that differ by no more agree.
AGREE: Final = 0.05
#: Mean times of the simulator that differ by a smaller factor promise no order.
LEVEL: Final = 1.1
_TIMES: Final = ("mean", "p50", "p95")


def table(comparison: Comparison) -> str:
    """One row per policy; real figures are of all lists together, forwards of one on average."""
    (hearth,) = (each for each in comparison.policies if each.policy == HEARTH)
    rows = []
    for each in comparison.policies:
        real, simulated = together(each), each.simulated
        ratios = [own / other for own, other in zip(_means(hearth), _means(each), strict=True)]
        rows.append(
            (
                each.policy,
                f"{real.hit_rate:.1%}",
                *(f"{getattr(real.ttft_ms, of):,.0f}" for of in _TIMES),
                "" if each is hearth else middle(ratios),
                f"{real.forwards / len(each.real):.0f}",
                f"{real.imbalance:.2f}",
                f"{simulated.hit_rate:.1%}",
                *(f"{getattr(simulated.ttft_ms, of):,.0f}" for of in _TIMES),
                f"{simulated.imbalance:.2f}",
            )
        )
    measured = ("hit rate", "TTFT mean, ms", "p50", "p95", "Hearth's mean by this")
    counted = ("forwards", "imbalance")
    guessed = ("simulated: hit rate", "TTFT mean, ms", "p50", "p95", "imbalance")
    return markdown(("policy", *measured, *counted, *guessed), rows)


def together(policy: Compared) -> Report:
    """What real nodes did, all lists in one."""
    return Report.together(policy.real)


def _means(policy: Compared) -> list[float]:
    return [report.ttft_ms.mean for report in policy.real]


def remarks(comparison: Comparison) -> list[str]:
    """The facts beside the table, and whether the simulator agrees, a sentence each."""
    setup, policies = comparison.setup, comparison.policies
    requests = [request for asked in comparison.lists for request in asked]
    lengths = [len(request.prompt.tokens) for request in requests]
    subjects = len({request.subject for request in requests})
    hits = [(together(each).hit_rate, each.simulated.hit_rate) for each in policies]
    apart = max(abs(real - simulated) for real, simulated in hits)
    by_real = sorted(policies, key=lambda each: together(each).ttft_ms.mean)
    return [
        f"{len(comparison.lists)} times {len(comparison.lists[0])} requests under {subjects} "
        f"subjects' prefixes, prompts of {min(lengths)} to {max(lengths)} tokens; the first tenth "
        f"of each list fills the caches and does not count.",
        f"{setup.nodes} nodes with {setup.cells:,} KV cells and {setup.threads} thread each; "
        f"{CLIENTS} requests at a time; {comparison.prefill_rate:.0f} prompt tokens per second and "
        f"node.",
        f"A link's round trip takes {comparison.rtt_ms:.0f} ms: {setup.delay_ms:.0f} ms each way, "
        f"up to {setup.jitter_ms:.0f} ms of jitter, and the nodes' own.",
        f"Real and simulated hit rates differ by {apart * 100:.1f} points at most, which is "
        f"{'within' if apart <= AGREE else 'more than'} {AGREE * 100:.0f}.",
        f"By mean TTFT, best first: {', '.join(each.policy for each in by_real)}.",
        f"Where the simulator tells two policies' means at least {LEVEL - 1:.0%} apart, "
        f"{_contradictions(policies)}.",
    ]


def _contradictions(policies: Sequence[Compared]) -> str:
    """Which of the simulator's differences reality turns round."""
    wrong = [
        f"{slower.policy} is no slower than {faster.policy}"
        for slower, faster in permutations(policies, 2)
        if slower.simulated.ttft_ms.mean >= LEVEL * faster.simulated.ttft_ms.mean
        and together(slower).ttft_ms.mean <= together(faster).ttft_ms.mean
    ]
    return f"reality disagrees: {'; '.join(wrong)}" if wrong else "reality has the same order"
