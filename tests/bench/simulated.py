"""The same requests in the simulator, so many at a time, to see whether it tells the truth."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from models.llama.chunks import chunk
from overlay.sim.machine import Machine
from overlay.sim.outcome import Counters, Outcome, Report
from overlay.sim.run import Scenario, run
from overlay.sim.workload import Session, Turn
from tests.bench.mmlu_like import Request
from tests.bench.policy_run import SGLANG_ROUTER, Figures
from tests.bench.proxied_mesh import Setup

#: Runs with other dice for whatever the policy and the network leave to chance.
SEEDS: Final = 10
#: What the simulator calls a policy, where it has another name for it.
_NAMES: Final = {SGLANG_ROUTER: "sglang"}


@dataclass(frozen=True, slots=True)
class Replay:
    """The workload that real nodes were asked: these requests, as fast as clients ask."""

    requests: tuple[Request, ...]
    name: str = "replay"

    def sessions(self, rng: random.Random, *, nodes: int, rate_per_s: float) -> Iterator[Session]:
        """See `Workload.sessions`."""
        for number, request in enumerate(self.requests):
            answer = (number,) * request.answer_tokens
            yield Session(0.0, request.origin % nodes, (Turn(request.prompt.tokens, answer, 0.0),))


def warm_up(requests: int) -> int:
    """How many of so many requests only fill the caches: the first tenth."""
    return requests // 10


def real(figures: Figures) -> Report:
    """What real nodes did, counted as the simulator counts: without those that fill the caches."""
    outcomes = [
        Outcome(
            request=sample.request,
            origin=sample.origin,
            executor=sample.executor,
            hops=sample.hops,
            submitted_s=sample.sent_s,
            ttft_ms=sample.ttft_ms,
            total_ms=sample.total_ms,
            prompt_tokens=sample.prompt_tokens,
            cached_tokens=sample.cached_tokens,
            estimated_match=sample.estimated_match,
            failed=False,
        )
        for sample in figures.samples
    ]
    counters = Counters(busy_s=figures.busy_s, gossip_bytes=0, blind=0)
    share = warm_up(len(outcomes)) / len(outcomes)
    return Report.of(figures.policy, outcomes, counters, warm_up=share)


def simulate(
    policy: str,
    requests: Sequence[Request],
    setup: Setup,
    clients: int,
    *,
    rtt_ms: float,
    prefill_rate: float,
) -> Report:
    """What the simulator makes of it, `SEEDS` runs together.

    ``prefill_rate``: prompt tokens per second, as nodes measure it.
    """
    scenario = Scenario(
        workload=Replay(tuple(requests)),
        nodes=setup.nodes,
        rtt_ms=rtt_ms,
        requests=len(requests) - warm_up(len(requests)),
        warm_up=warm_up(len(requests)),
        cells=setup.cells,
        machine=_machine(prefill_rate),
        clients=clients,
        limited=True,
    )
    name = _NAMES.get(policy, policy)
    return Report.together([run(scenario, name, seed) for seed in range(SEEDS)])


def _machine(measured_rate: float) -> Machine:
    """One that computes prompts at this many tokens per second, all that a step takes included."""
    machine = Machine()
    tokens = chunk(measured_rate, streaming=False)
    return machine.scaled(measured_rate * machine.step_seconds(0, tokens) / tokens)
