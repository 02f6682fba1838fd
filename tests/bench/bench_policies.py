"""Where requests go, on real nodes: Hearth's policy beside others', with the same requests.

Four nodes with a network's delay between them, none of which has room for the prefixes of all
subjects. Afterwards the simulator is asked what it makes of the same requests.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from overlay.sim.outcome import Report
from tests.bench.mmlu_like import Plan, Request, mmlu_like
from tests.bench.policy_run import HEARTH, LOCAL_ONLY, SGLANG_ROUTER, Figures, measure
from tests.bench.proxied_mesh import Setup
from tests.bench.simulated import real, simulate
from tests.bench.workload import SEED, Vocabulary

POLICIES: Final = (LOCAL_ONLY, "random", "longest-match", HEARTH, SGLANG_ROUTER)
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
    """One policy, in both worlds."""

    figures: Figures
    real: Report
    simulated: Report


@dataclass(frozen=True, slots=True)
class Comparison:
    """All policies, in the order in which they ran."""

    setup: Setup
    requests: list[Request]
    policies: list[Compared]


def compare(
    model: Path, plan: Plan, router: Path | None, begin: Callable[[str], Callable[[], None]]
) -> Comparison:
    """Run every policy in turn; without a ``router``, all but `SGLANG_ROUTER`.

    ``begin`` is told the name of each policy, and gives what to call after each answer.
    """
    cells = max(4, round(HELD * plan.subjects)) * plan.prefix_tokens
    setup = Setup(model, NODES, NODES, DELAY_MS, JITTER_MS, cells, THREADS, SEED)
    comparison = Comparison(setup, mmlu_like(Vocabulary(model), plan, nodes=NODES), [])
    for policy in POLICIES:
        if policy == SGLANG_ROUTER and router is None:
            continue
        with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
            figures = asyncio.run(
                measure(
                    policy,
                    setup,
                    comparison.requests,
                    clients=CLIENTS,
                    router=router,
                    done=begin(policy),
                    folder=Path(folder),
                )
            )
        simulated = simulate(figures, comparison.requests, setup, CLIENTS)
        comparison.policies.append(Compared(figures, real(figures), simulated))
    return comparison
