"""Who has the longest prefix of a prompt? Hearth's index beside that of ``ai-dynamo-runtime``.

100 peers hold 4,096 blocks each: 16 paths of 256 blocks, which is a prompt of 8,192 tokens. Each
measurement has a process of its own, so that memory can be told; the indexes take turns.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import subprocess
import sys
import time
import tracemalloc
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import psutil

from tests.bench.indexes import DYNAMO, HEARTH, INDEXES, Index, NoDynamo, dynamo_version
from tests.bench.report import markdown, middle, percentile
from tests.bench.setting import in_turn

PEERS: Final = 100
PATHS: Final = 16
PATH_BLOCKS: Final = 256
#: Of so many different paths each peer holds PATHS; with None no two peers share any.
SCENARIOS: Final[dict[str, int | None]] = {"distinct": None, "shared": 64}
ROUNDS: Final = 5
LOOKUPS: Final = 1500
#: Blocks of one update, as one gossip message might tell; and how many of them are measured.
UPDATE_BLOCKS: Final = 64
UPDATES: Final = 200
DROPS: Final = 5
HASHED_PROMPTS: Final = 50
_VOCABULARY: Final = 50_000


@dataclass(frozen=True, slots=True)
class Figures:
    """One index, filled once. Memory is what the process grew by; updates include one look-up."""

    memory_mb: float
    match_p50_us: float
    match_p99_us: float
    store_us_per_block: float
    remove_us_per_block: float
    drop_us: float
    hash_us: float


#: What the table calls each figure.
TITLES: Final = {
    "memory_mb": "memory, MB",
    "match_p50_us": "look-up p50, µs",
    "match_p99_us": "look-up p99, µs",
    "store_us_per_block": "adding a block, µs",
    "remove_us_per_block": "removing a block, µs",
    "drop_us": "dropping a peer, µs",
    "hash_us": "hashing the prompt, µs",
}


class Fleet:
    """What the peers hold."""

    def __init__(self, scenario: str, seed: int) -> None:
        self.dice = random.Random(seed)
        pool = SCENARIOS[scenario]
        paths = [
            array("Q", (self.dice.getrandbits(64) for _ in range(PATH_BLOCKS)))
            for _ in range(pool or PEERS * PATHS)
        ]
        self.paths: list[list[array[int]]] = [
            self.dice.sample(paths, PATHS) if pool else paths[peer * PATHS : (peer + 1) * PATHS]
            for peer in range(PEERS)
        ]

    def fill(self, index: Index) -> float:
        """Seconds that it took the index to take in everything."""
        return sum(
            settled(index, index.storing(peer, path.tolist(), None))
            for peer, paths in enumerate(self.paths)
            for path in paths
        )

    def prompt(self, number: int) -> list[int]:
        """In turn one that somebody has wholly, one that somebody has half of, and a new one."""
        known = (PATH_BLOCKS, PATH_BLOCKS // 2, 0)[number % 3]
        path = self.dice.choice(self.dice.choice(self.paths))
        new = (self.dice.getrandbits(64) for _ in range(PATH_BLOCKS - known))
        return [*path[:known], *new]


def timed(action: Callable[[], object]) -> float:
    """Seconds."""
    begun_s = time.perf_counter()
    action()
    return time.perf_counter() - begun_s


def settled(index: Index, update: Callable[[], object]) -> float:
    """Seconds until a look-up sees the update, wherever it is carried out."""
    return timed(lambda: (update(), index.match([0])))


def measure_one(name: str, scenario: str, seed: int) -> Figures:
    """Fill the index in this process, which should be fresh, and use it."""
    fleet = Fleet(scenario, seed)
    kind = INDEXES[name]
    kind().match(fleet.prompt(0))  # what is loaded on first use is not the index's
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    index: Index = kind()
    store_s = fleet.fill(index)
    gc.collect()
    memory = process.memory_info().rss - before

    match_us = []
    for number in range(LOOKUPS):
        prompt = fleet.prompt(number)
        match_us.append(1e6 * timed(partial(index.match, prompt)))
    remove_s = 0.0
    for number in range(UPDATES):
        peer = number % PEERS
        path = fleet.paths[peer][number // PEERS]
        tail, parent = path[-UPDATE_BLOCKS:].tolist(), path[-UPDATE_BLOCKS - 1]
        remove_s += settled(index, index.removing(peer, tail[::-1]))
        store_s += settled(index, index.storing(peer, tail, parent))
        assert index.match(path.tolist())
    drop_s = [settled(index, partial(index.drop, peer)) for peer in range(DROPS)]
    tokens = [fleet.dice.randrange(_VOCABULARY) for _ in range(PATH_BLOCKS * 32)]
    hash_s = [timed(lambda: kind.hash_prompt(tokens)) for _ in range(HASHED_PROMPTS)]
    updated = UPDATES * UPDATE_BLOCKS
    return Figures(
        memory_mb=memory / 1e6,
        match_p50_us=statistics.median(match_us),
        match_p99_us=percentile(match_us, 0.99),
        store_us_per_block=1e6 * store_s / (PEERS * PATHS * PATH_BLOCKS + updated),
        remove_us_per_block=1e6 * remove_s / updated,
        drop_us=1e6 * statistics.median(drop_s),
        hash_us=1e6 * statistics.median(hash_s),
    )


def traced_mb(scenario: str, seed: int) -> float:
    """What Python allocated for Hearth's index, without what the allocator keeps in reserve."""
    fleet = Fleet(scenario, seed)
    tracemalloc.start()
    index = INDEXES[HEARTH]()
    fleet.fill(index)
    gc.collect()
    return tracemalloc.get_traced_memory()[0] / 1e6


def measure(rounds: int, on_round: Callable[[], None]) -> dict[str, Any]:
    """All samples, by scenario and index, and what Python says of Hearth's memory."""
    names = [HEARTH]
    try:
        told: dict[str, Any] = {"version": dynamo_version()}
        names.append(DYNAMO)
    except NoDynamo as missing:
        told = {"missing": str(missing)}
    for scenario in SCENARIOS:
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for number in range(rounds):
            for name in in_turn(names, number):
                samples[name].append(_in_a_process(name, scenario, number))
            on_round()
        told[scenario] = {
            "samples": samples,
            "traced_mb": _in_a_process("traced", scenario, 0)["traced_mb"],
        }
    return told


def _in_a_process(*what: object) -> dict[str, float]:
    command = [sys.executable, "-m", __name__, *map(str, what)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def tables(told: dict[str, Any]) -> str:
    """One table for each scenario, in Markdown."""
    parts = []
    if "missing" in told:
        parts.append(f"Without ai-dynamo-runtime: {told['missing']}")
    else:
        parts.append(f"ai-dynamo-runtime {told['version']}")
    for scenario in SCENARIOS:
        samples = told[scenario]["samples"]
        heads = list(samples)
        rows = [
            _row(title, [[s[key] for s in samples[n]] for n in heads])
            for key, title in TITLES.items()
        ]
        if len(heads) > 1:
            heads.append("ratio (least to most)")
        parts += [
            f"### {scenario}",
            markdown((scenario, *heads), rows),
            f"Python's own count of Hearth's memory: {told[scenario]['traced_mb']:.1f} MB.",
        ]
    return "\n\n".join(parts)


def _row(title: str, columns: Sequence[Sequence[float]]) -> list[str]:
    medians = [statistics.median(column) for column in columns]
    cells = [f"{median:,.{0 if median >= 100 else 1}f}" for median in medians]
    if len(columns) > 1:
        cells.append(middle(own / other for own, other in zip(*columns, strict=True)))
    return [title, *cells]


if __name__ == "__main__":
    _name, _scenario, _seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if _name == "traced":
        print(json.dumps({"traced_mb": traced_mb(_scenario, _seed)}))
    else:
        print(json.dumps(asdict(measure_one(_name, _scenario, _seed))))
