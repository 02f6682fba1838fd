"""Where requests go, on real nodes: Hearth's policy beside others', with the same requests.

Four nodes with a network's delay between them, none of which has room for the prefixes of all
subjects. Several lists, so that chance is seen. Afterwards the simulator is asked what it makes of
the same requests.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Final

from overlay.sim.outcome import Report
from tests.bench.mmlu_like import Plan, Request, mmlu_like
from tests.bench.policy_run import HEARTH, LOCAL_ONLY, SGLANG_ROUTER, Figures, measure
from tests.bench.proxied_mesh import Setup
from tests.bench.setting import in_turn
from tests.bench.simulated import real, simulate
from tests.bench.workload import SEED, Vocabulary

POLICIES: Final = (LOCAL_ONLY, "random", "longest-match", HEARTH, SGLANG_ROUTER)
LISTS: Final = 3
QUICK_LISTS: Final = 1
#: Requests at a time. With a thread for each node they do not slow each other down.
CLIENTS: Final = 2
THREADS: Final = 1
NODES: Final = 4
DELAY_MS: Final = 20.0
JITTER_MS: Final = 5.0
#: The share of all prefixes that a node's KV cache has room for: four nodes together hold them all,
#: with a few questions under each.
HELD: Final = 0.28
PLAN: Final = Plan(requests=80, prefix_tokens=400, skew=0.8)
QUICK_PLAN: Final = replace(PLAN, requests=24, subjects=12)


@dataclass(frozen=True, slots=True)
class Compared:
    """One policy, in both worlds. ``figures`` and ``real``: of each list."""

    policy: str
    figures: list[Figures]
    real: list[Report]
    simulated: Report


@dataclass(frozen=True, slots=True)
class Comparison:
    """All policies, under the same lists of requests.

    ``rtt_ms`` and ``prefill_rate`` (tokens per second) are those of all runs, and of the simulator:
    it is the same machine whoever routes.
    """

    setup: Setup
    lists: list[list[Request]]
    rtt_ms: float
    prefill_rate: float
    policies: list[Compared]


def compare(
    model: Path,
    plan: Plan,
    lists: int,
    router: Path | None,
    begin: Callable[[str], Callable[[], None]],
) -> Comparison:
    """Run every policy in turn, list by list; without a ``router``, all but `SGLANG_ROUTER`.

    ``begin`` is told the name of each run, and gives what to call after each answer.
    """
    cells = max(4, round(HELD * plan.subjects)) * plan.prefix_tokens
    setup = Setup(model, NODES, NODES, DELAY_MS, JITTER_MS, cells, THREADS, SEED)
    vocabulary = Vocabulary(model)
    asked = [mmlu_like(vocabulary, plan, nodes=NODES, number=number) for number in range(lists)]
    figures: dict[str, list[Figures]] = {
        policy: [] for policy in POLICIES if policy != SGLANG_ROUTER or router is not None
    }
    for number, requests in enumerate(asked):
        for policy in in_turn(list(figures), number):
            with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
                run = measure(
                    policy,
                    setup,
                    requests,
                    clients=CLIENTS,
                    router=router,
                    done=begin(f"{policy}, list {number + 1} of {lists}"),
                    folder=Path(folder),
                )
                figures[policy].append(asyncio.run(run))
    runs = [each for policy in figures.values() for each in policy]
    rtt_ms = median(rtt for each in runs for rtt in each.rtt_ms)
    rate = mean(rate for each in runs for rate in each.prefill_rates)
    return Comparison(
        setup,
        asked,
        rtt_ms,
        rate,
        [
            Compared(
                policy,
                each,
                [real(one) for one in each],
                Report.together(
                    [
                        simulate(policy, one, setup, CLIENTS, rtt_ms=rtt_ms, prefill_rate=rate)
                        for one in asked
                    ]
                ),
            )
            for policy, each in figures.items()
        ],
    )
