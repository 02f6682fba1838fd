"""One simulated run: a scenario, a policy and a seed give a report, the same every time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Final

from overlay.limits import GOSSIP_INTERVAL_S
from overlay.prefix.radix import RadixTree
from overlay.routing.cost_policy import CostPolicy
from overlay.sim.baselines import REGISTRY
from overlay.sim.churn import Churn
from overlay.sim.machine import Machine
from overlay.sim.network import Links, Network, scattered, uniform
from overlay.sim.node import MODEL_KEY, SECRET
from overlay.sim.outcome import Report
from overlay.sim.workload import Session, Workload
from overlay.sim.world import World

HEARTH: Final = "hearth"
#: Sessions, or turns if they are many, that tell how much work a workload is, after as many that
#: fill the cache.
_SAMPLE: Final = 400
_SAMPLE_TURNS: Final = 1000


@dataclass(frozen=True)
class Scenario:
    """What is simulated, but for the policy and the seed."""

    workload: Workload
    nodes: int = 8
    #: Round trip between two nodes: of any two, or on average if they are ``scattered``.
    rtt_ms: float = 20.0
    scattered: bool = False
    #: Requests that count, after so many that only fill the caches, at half the load.
    requests: int = 2000
    warm_up: int = 500
    #: Share of its time that each machine would compute if every node served its own clients.
    load: float = 0.6
    #: Tokens that each node's cache holds.
    cells: int = 16_384
    machine: Machine = field(default_factory=Machine)
    #: Speeds of the nodes, by turns, as multiples of ``machine``'s.
    speeds: tuple[float, ...] = (1.0,)
    links: Links = field(default_factory=Links)
    gossip_interval_s: float = GOSSIP_INTERVAL_S
    #: So many sessions at a time, each begun when another has ended; 0: when ``load`` brings them.
    clients: int = 0
    #: Clients say with each request how long its answer will get, as with ``max_tokens``.
    limited: bool = False
    #: Nodes that go and come back, and partitions.
    churn: Churn = field(default_factory=Churn)

    def machines(self) -> list[Machine]:
        return [self.machine.scaled(self.speeds[n % len(self.speeds)]) for n in range(self.nodes)]


def run(
    scenario: Scenario,
    policy: str,
    seed: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Simulate; ``on_progress`` is told how many requests were answered so far.

    ``policy``: HEARTH, or the name of a rival (`baselines.REGISTRY`).
    """
    # Each its own chance, so that all policies see the same requests and the same network.
    network_rng, world_rng, policy_rng = (random.Random(f"{seed} {what}") for what in "nwp")
    rtt_s = scenario.rtt_ms / 1e3
    distances = (
        scattered(scenario.nodes, rtt_s, network_rng)
        if scenario.scattered
        else uniform(scenario.nodes, rtt_s)
    )
    machines = scenario.machines()
    sessions = scenario.workload.sessions(
        random.Random(f"{seed} s"), nodes=scenario.nodes, rate_per_s=session_rate(scenario)
    )
    sessions = _slowly_first(sessions, scenario.warm_up)
    world = World(
        machines,
        [scenario.cells] * scenario.nodes,
        Network(distances, scenario.links, network_rng),
        sessions,
        requests=scenario.warm_up + scenario.requests,
        gossip_interval_s=scenario.gossip_interval_s,
        clients=scenario.clients,
        limited=scenario.limited,
        faults=scenario.churn.faults(random.Random(f"{seed} c"), scenario.nodes),
        rng=world_rng,
    )
    if policy == HEARTH:
        world.populate(lambda _: CostPolicy(policy_rng), gossip=True)
    else:
        rival = REGISTRY[policy]
        gossip = rival.knows in ("load", "summaries")
        world.populate(rival.policies(world, policy_rng), gossip=gossip, spares=False)
    world.run(on_progress)
    share = scenario.warm_up / (scenario.warm_up + scenario.requests)
    return Report.of(policy, world.outcomes, world.counters(), warm_up=share)


def _slowly_first(sessions: Iterator[Session], count: int) -> Iterator[Session]:
    """Sessions with the first ``count`` turns come at half the rate: cold caches make everybody
    slower, and a queue that grew then would take long to go away."""
    late_s, turns = 0.0, 0
    for session in sessions:
        if turns < count:
            late_s = session.at_s
        turns += len(session.turns)
        yield session._replace(at_s=session.at_s + late_s)


def session_rate(scenario: Scenario) -> float:
    """Sessions per second, in the whole mesh, that make the scenario's load."""
    speed = sum(machine.prefill_rate for machine in scenario.machines())
    return (
        scenario.load
        * speed
        / scenario.machine.prefill_rate
        / _session_seconds(scenario.workload, scenario.machine, scenario.cells)
    )


@lru_cache(maxsize=64)
def _session_seconds(workload: Workload, machine: Machine, cells: int) -> float:
    """How long a machine computes for a session of its own clients, on average."""
    tree = RadixTree(SECRET, MODEL_KEY, cells)
    sessions = enumerate(workload.sessions(random.Random(0), nodes=1, rate_per_s=1.0))
    cold = _mean_seconds(sessions, tree, machine, cells)
    assert cold is not None
    warm = _mean_seconds(sessions, tree, machine, cells)
    return cold if warm is None else warm


def _mean_seconds(
    sessions: Iterator[tuple[int, Session]], tree: RadixTree, machine: Machine, cells: int
) -> float | None:
    """Of some sessions, with what is in the cache; None if none is left."""
    seconds, counted, turns = 0.0, 0, 0
    for number, session in islice(sessions, _SAMPLE):
        counted += 1
        turns += len(session.turns)
        for turn in session.turns:
            tokens = turn.prompt + turn.answer[:-1]
            match = tree.match_prefix(turn.prompt, limit=len(turn.prompt) - 1)
            node = tree.lock(tree.hit(match))
            seconds += machine.cold_seconds(len(turn.prompt) - match.length)
            # Answers share their steps with about three others.
            seconds += len(turn.answer) * (machine.answer_s + machine.step_s / 4)
            while tree.size + len(tokens) - match.length > cells:
                tip = tree.coldest_tip()
                if tip is None:
                    break
                tree.cut(tip, tip.start)
            done = tree.insert_prefix(node, tokens[match.length :], number)
            tree.unlock(done.node)
        if turns >= _SAMPLE_TURNS:
            break
    return seconds / counted if counted else None
