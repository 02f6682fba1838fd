"""What the simulator says of a mesh of real nodes, and of larger ones."""

from __future__ import annotations

import math
import random
from itertools import product
from typing import Any, Final

from overlay.gossip.records import CARD
from overlay.limits import GOSSIP_INTERVAL_S
from overlay.routing.cost_policy import CostPolicy
from overlay.sim.churn import Gone
from overlay.sim.machine import Machine
from overlay.sim.network import Links, Network, uniform
from overlay.sim.world import World
from tests.bench.gossip_mesh import HearthMesh

SETTLE_ROUNDS: Final = 5
STEADY_ROUNDS: Final = 4
NEWS: Final = 12
NEW_BLOCKS: Final = 16
_LOOK_ROUNDS: Final = 0.05
_LOOPBACK_RTT_S: Final = 0.001
#: Nodes are killed so long after the start.
_KILL_S: Final = 20.0
#: Larger meshes are not simulated: their figures follow from those of smaller ones.
_WHOLE_NODES_MAX: Final = 1000
_SEEDS: Final = {True: 1, False: 3}
#: Other dice for each of the real restarts.
_RESTARTS_OF_EACH: Final = 5


def measure(
    served_s: dict[int, list[list[float]]], more: tuple[int, ...], quick: bool
) -> dict[str, Any]:
    """By the number of nodes; ``more`` are projected.

    ``served_s``: of real ones, and how long after each killing each of the killed served again.
    """
    told = {}
    for nodes, restarts in served_s.items():
        restart_s = [
            _restart(nodes, seed, back_s)
            for back_s in restarts
            for seed in range(_RESTARTS_OF_EACH)
        ]
        told[str(nodes)] = _mesh(nodes, _SEEDS[quick]) | {"restart_s": restart_s}
    for size in more:
        whole = size <= _WHOLE_NODES_MAX
        told[str(size)] = _mesh(size, 1) if whole else _extrapolated(size, told)
    return told


def _mesh(nodes: int, seeds: int) -> dict[str, Any]:
    bytes_s, one_s, all_s = [], [], []
    for seed in range(seeds):
        mesh = HearthMesh(nodes, seed)
        mesh.run(SETTLE_ROUNDS)
        mesh.bytes_sent = 0
        mesh.run(STEADY_ROUNDS)
        bytes_s.append(mesh.bytes_per_node_s(STEADY_ROUNDS * GOSSIP_INTERVAL_S))
        for _ in range(NEWS if nodes < _WHOLE_NODES_MAX else 3):
            mesh.run(mesh.dice.random())
            origin = mesh.dice.randrange(nodes)
            mesh.change_summary(origin, NEW_BLOCKS)
            one_s.append(_until_known(mesh, [origin]))
        for origin in range(nodes):
            mesh.change_load(origin)
        all_s.append(_until_known(mesh, range(nodes)))
    return {
        "gossip_bytes": bytes_s,
        "one_news_s": one_s,
        "all_news_s": all_s,
        "how": "the nodes' own gossip in virtual time",
    }


def _until_known(mesh: HearthMesh, origins: Any) -> float:
    written = mesh.known[origins, origins].copy()
    begun_s = mesh.clock.now
    while not (mesh.known[:, origins] >= written).all():
        mesh.run(_LOOK_ROUNDS)
    return mesh.clock.now - begun_s


def _extrapolated(size: int, told: dict[str, Any]) -> dict[str, Any]:
    """Bytes are a constant and a row for each origin; rounds grow with the logarithm."""
    (small, few), (large, many) = sorted((int(n), each) for n, each in told.items())[-2:]
    slope = (many["gossip_bytes"][0] - few["gossip_bytes"][0]) / (large - small)

    def later(name: str) -> list[float]:
        low, high = sum(few[name]) / len(few[name]), sum(many[name]) / len(many[name])
        per_doubling = (high - low) / math.log2(large / small)
        return [high + per_doubling * math.log2(size / large)]

    return {
        "gossip_bytes": [many["gossip_bytes"][0] + slope * (size - large)],
        "one_news_s": later("one_news_s"),
        "all_news_s": later("all_news_s"),
        "how": f"extrapolated from {small} and {large:,}",
    }


def _restart(nodes: int, seed: int, back_s: list[float]) -> float:
    """Some stop without a word at once, and are back ``back_s`` later, with links to everybody.

    Seconds until all know all, since the last of them is back.
    """
    rng = random.Random(seed)
    network = Network(uniform(nodes, _LOOPBACK_RTT_S), Links(jitter=0.2), random.Random(seed))
    machines, cells = [Machine()] * nodes, [1 << 14] * nodes
    gone = rng.sample(range(nodes), len(back_s))
    world = World(machines, cells, network, iter(()), requests=0, rng=rng)
    world.populate(lambda _: CostPolicy(random.Random(rng.random())), gossip=True)
    _run(world, _KILL_S)
    for node, seconds in zip(gone, back_s, strict=True):
        world._happen(Gone(0.0, node))
        world.clock.at(world.clock.now + seconds, world._restart, node)
    _run(world, max(back_s))
    begun_s = world.clock.now
    while not _all_know(world, gone):
        _run(world, _LOOK_ROUNDS * GOSSIP_INTERVAL_S)
    return world.clock.now - begun_s


def _run(world: World, seconds: float) -> None:
    end_s = world.clock.now + seconds
    world.clock.at(end_s, lambda: None)
    while world.clock.now < end_s:
        world.clock.step()


def _all_know(world: World, restarted: list[int]) -> bool:
    """Everybody knows the cards of the restarted, and these know everybody's."""
    cores = [node.member.gossip for node in world.nodes]
    back = [cores[number] for number in restarted]
    pairs = [*product(cores, back), *product(back, cores)]
    return all(
        one.incarnation(other.me) == other.incarnation(other.me)
        and one.record(other.me, CARD) == other.record(other.me, CARD)
        for one, other in pairs
    )
