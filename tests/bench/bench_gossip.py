"""How fast news spread by gossip, and what that costs: bytes, CPU time, memory.

`overlay.gossip` itself in virtual time, beside rivals that push all they know and ask for nothing.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from overlay.gossip.opening import FANOUT
from overlay.limits import GOSSIP_INTERVAL_S
from tests.bench import gossip_costs
from tests.bench.gossip_mesh import RTT_S, HearthMesh, PushMesh, VirtualMesh
from tests.bench.report import markdown

#: Meshes of so many nodes, each so many times with other dice.
SEEDS: Final = {10: 20, 30: 10, 50: 8, 100: 8, 300: 4, 1000: 3}
QUICK_SEEDS: Final = {10: 4, 30: 3, 50: 2, 100: 2}
HEARTH: Final = "Hearth"
#: Pushes to one peer in each round; and to as many as Hearth opens exchanges with.
PUSHES: Final = {"push to 1": 1, f"push to {FANOUT}": FANOUT}
#: In each mesh so often a load and the summary of another node change, and nothing else does.
PAIRS: Final = 6
NEW_BLOCKS: Final = 200
#: Rounds before anything is measured, for digests to be compact; and those in which bytes are.
SETTLE_ROUNDS: Final = 5
MEASURED_ROUNDS: Final = 3
#: How often, in rounds, it is looked whether the news are everywhere.
LOOK_ROUNDS: Final = 0.05
#: Of how many origins two nodes know that exchange what they know.
EXCHANGE_ORIGINS: Final = (100, 1000)


@dataclass(slots=True)
class Spread:
    """What was measured of meshes of one size. Rounds until all nodes know; ages in seconds."""

    one_load: list[float] = field(default_factory=list)
    summary: list[float] = field(default_factory=list)
    all_loads: list[float] = field(default_factory=list)
    #: While every load changes in every round: of each mesh the mean, 99th percentile and oldest.
    age_mean_s: list[float] = field(default_factory=list)
    age_p99_s: list[float] = field(default_factory=list)
    age_max_s: list[float] = field(default_factory=list)
    #: What a node sends per second: nothing changes; all loads change.
    idle_bytes: list[float] = field(default_factory=list)
    busy_bytes: list[float] = field(default_factory=list)

    def worst(self) -> float:
        """Rounds."""
        return max(*self.one_load, *self.summary, *self.all_loads)


def bound_rounds(nodes: int) -> float:
    """What is promised: log2(N) + 4."""
    return math.log2(nodes) + 4


def runs(quick: bool) -> int:
    """How often `measure` tells that it has done one."""
    seeds = QUICK_SEEDS if quick else SEEDS
    return sum(seeds.values()) + 2 * len(EXCHANGE_ORIGINS)


def measure(quick: bool, on_run: Callable[[], None]) -> dict[str, Any]:
    """All figures."""
    spread: dict[int, dict[str, Any]] = {}
    for nodes, seeds in (QUICK_SEEDS if quick else SEEDS).items():
        told = {name: Spread() for name in (HEARTH, *PUSHES)}
        for seed in range(seeds):
            _hearth(nodes, seed, told[HEARTH])
            for name, fanout in PUSHES.items():
                _push(nodes, seed, fanout, told[name])
            on_run()
        spread[nodes] = {name: asdict(each) for name, each in told.items()}
    exchanges = {}
    for origins in EXCHANGE_ORIGINS:
        for case in ("idle", "busy"):
            exchange = gossip_costs.exchange(origins, busy=case == "busy")
            exchanges[f"{origins} {case}"] = asdict(exchange)
            on_run()
    command = [sys.executable, "-m", gossip_costs.__name__]
    memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "spread": spread,
        "exchanges": exchanges,
        "news_bytes": gossip_costs.news_bytes(),
        **json.loads(memory),
    }


def _hearth(nodes: int, seed: int, told: Spread) -> None:
    """One mesh of Hearth's cores: idle, then news of a few nodes, then of all."""
    mesh = HearthMesh(nodes, seed)
    mesh.run(SETTLE_ROUNDS)
    mesh.bytes_sent = 0
    mesh.run(MEASURED_ROUNDS)
    told.idle_bytes.append(_bytes(mesh))
    for one, another in _few(mesh):
        mesh.change_load(one)
        mesh.change_summary(another, NEW_BLOCKS)
        load, summary = _until_everywhere(mesh, [one, another])
        told.one_load.append(load)
        told.summary.append(summary)
    told.all_loads += _all_at_once(mesh)
    _begin_to_be_busy(mesh, told)
    mesh.bytes_sent = 0
    _ages(mesh, told)
    told.busy_bytes.append(_bytes(mesh))


def _push(nodes: int, seed: int, fanout: int, told: Spread) -> None:
    """One mesh of a rival's. It makes no difference to it what the news are."""
    mesh = PushMesh(nodes, seed, fanout)
    mesh.run(SETTLE_ROUNDS)
    for one, _ in _few(mesh):
        mesh.change_load(one)
        told.one_load += _until_everywhere(mesh, [one])
    told.all_loads += _all_at_once(mesh)
    _begin_to_be_busy(mesh, told)
    _ages(mesh, told)


def _few(mesh: VirtualMesh) -> Iterator[list[int]]:
    """Pairs of origins, one after the other, at random moments."""
    for _ in range(PAIRS):
        mesh.run(mesh.dice.random())
        yield mesh.dice.sample(range(mesh.count), 2)


def _all_at_once(mesh: VirtualMesh) -> list[float]:
    for origin in range(mesh.count):
        mesh.change_load(origin)
    return _until_everywhere(mesh, range(mesh.count))


def _until_everywhere(mesh: VirtualMesh, origins: Sequence[int]) -> list[float]:
    """Rounds until all nodes know what each of these has just written."""
    written = mesh.known[origins, origins]
    begun_s = mesh.clock.now
    rounds = np.full(len(origins), np.inf)
    while np.isinf(rounds).any():
        mesh.run(LOOK_ROUNDS)
        there = (mesh.known[:, origins] >= written).all(axis=0)
        passed = (mesh.clock.now - begun_s) / GOSSIP_INTERVAL_S
        rounds[there] = np.minimum(rounds[there], passed)
    return [float(each) for each in rounds]


def _begin_to_be_busy(mesh: VirtualMesh, told: Spread) -> None:
    """Every load changes in every round from now on, and no older news are left."""
    mesh.busy = True
    mesh.run(max(told.all_loads) + 1)


def _ages(mesh: VirtualMesh, told: Spread) -> None:
    ages = []
    for _ in range(MEASURED_ROUNDS):
        mesh.run(1)
        ages.append(mesh.ages_s())
    told.age_mean_s.append(float(np.mean(ages)))
    told.age_p99_s.append(float(np.quantile(ages, 0.99)))
    told.age_max_s.append(float(np.max(ages)))


def _bytes(mesh: HearthMesh) -> float:
    """Sent by a node per second, in the MEASURED_ROUNDS that have passed."""
    return mesh.bytes_per_node_s(MEASURED_ROUNDS * GOSSIP_INTERVAL_S)


def tables(told: dict[str, Any]) -> str:
    """Rounds; ages and bytes; costs. In Markdown."""
    spreads = {
        nodes: {name: Spread(**figures) for name, figures in each.items()}
        for nodes, each in told["spread"].items()
    }
    return "\n\n".join(
        (
            _rounds_table(spreads),
            _ages_table(spreads),
            _bytes_table(spreads),
            _costs_table(told),
            f"Round trips of {1e3 * RTT_S:.0f} ms. News of one block take "
            f"{told['news_bytes']['one_block']} bytes, those of a whole summary "
            f"{told['news_bytes']['whole_summary']:,}. A node's replicas of "
            f"{gossip_costs.MEMORY_ORIGINS} full summaries take {told['memory_mb']:.0f} MB.",
        )
    )


def _rounds_table(spreads: dict[int, dict[str, Spread]]) -> str:
    """Median and worst rounds of each kind of news."""
    heads = ("nodes", "bound", "one load", f"{NEW_BLOCKS} blocks", "all loads", "bound kept")
    rows = []
    for nodes, spread in spreads.items():
        own = spread[HEARTH]
        cells = [_span(own.one_load), _span(own.summary), _span(own.all_loads)]
        kept = "yes" if own.worst() <= bound_rounds(nodes) else "**no**"
        rivals = [_span([*spread[name].one_load, *spread[name].all_loads]) for name in PUSHES]
        rows.append([f"{nodes:,}", f"{bound_rounds(nodes):.1f}", *cells, kept, *rivals])
    return markdown((*heads, *PUSHES), rows)


def _ages_table(spreads: dict[int, dict[str, Spread]]) -> str:
    """Of the news of others' loads, when all change in every round."""
    heads = ("nodes", *(f"{name}: age, s" for name in (HEARTH, *PUSHES)))
    rows = [
        [
            f"{nodes:,}",
            *(
                f"{statistics.mean(each.age_mean_s):.2f} (p99 {statistics.mean(each.age_p99_s):.1f}"
                f", oldest {max(each.age_max_s):.1f})"
                for each in spread.values()
            ),
        ]
        for nodes, spread in spreads.items()
    ]
    return markdown(heads, rows)


def _bytes_table(spreads: dict[int, dict[str, Spread]]) -> str:
    """What a node sends; rivals as if there were nothing but loads."""
    heads = ("nodes", "Hearth, idle: kB/s", "Hearth, all loads change: kB/s")
    rows = []
    for nodes, spread in spreads.items():
        cells = [spread[HEARTH].idle_bytes, spread[HEARTH].busy_bytes]
        cells += [[fanout * gossip_costs.loads_bytes(nodes)] for fanout in PUSHES.values()]
        rows.append([f"{nodes:,}", *(f"{statistics.mean(cell) / 1e3:.1f}" for cell in cells)])
    return markdown((*heads, *(f"{name}, loads alone: kB/s" for name in PUSHES)), rows)


def _costs_table(told: dict[str, Any]) -> str:
    heads = ("origins known", "gossip, ms CPU", "codec, ms CPU", "kB", "of a core")
    rows = []
    for name, exchange in told["exchanges"].items():
        milliseconds = exchange["gossip_ms"] + exchange["codec_ms"]
        # A node opens FANOUT exchanges per round and answers as many; both ends are in the figure.
        share = FANOUT * milliseconds / (1e3 * GOSSIP_INTERVAL_S)
        rows.append(
            [
                name,
                f"{exchange['gossip_ms']:.2f}",
                f"{exchange['codec_ms']:.2f}",
                f"{exchange['bytes'] / 1e3:.1f}",
                f"{share:.1%}",
            ]
        )
    return markdown(heads, rows)


def _span(rounds: Sequence[float]) -> str:
    return f"{statistics.median(rounds):.1f} ({max(rounds):.1f})"
