"""Many real nodes on one machine: how soon they converge, what it costs, and what the simulator
says of as many, and of more.

Real processes with a few nodes each, real CURVE links between all of them; only the engines are
replaced, by a source of tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from overlay.limits import GOSSIP_INTERVAL_S, HANDSHAKE_S
from tests.bench import scale_sim
from tests.bench.report import markdown
from tests.support.tiny_gguf import write_tiny_gguf

#: Nodes, how many a process has, and how often everything is done.
NODES: Final = (25, 50)
NODES_PER_PROCESS: Final = 5
ROUNDS: Final = 3
QUICK_NODES: Final = (10,)
QUICK_ROUNDS: Final = 1
#: News, one node's after another's, in each round; and blocks in each.
NEWS: Final = 8
NEW_BLOCKS: Final = 16
#: News of all nodes, and restarts, in each round.
REPEATS: Final = 3
STEADY_S: Final = 20.0
SETTLE_S: Final = 8.0
SPLIT_S: Final = 15.0
RESTARTED_SHARE: Final = 0.3
#: Whoever has not converged by then never does.
PATIENCE_S: Final = 120.0
_PROJECTED: Final = (1000, 10_000)
_QUICK_PROJECTED: Final = (100,)


@dataclass(slots=True)
class Figures:
    """Seconds until all know all; per node and second where they are costs."""

    nodes: int
    nodes_per_process: int
    start_s: list[float] = field(default_factory=list)
    one_news_s: list[float] = field(default_factory=list)
    all_news_s: list[float] = field(default_factory=list)
    partition_s: list[float] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    #: Of each restart: how long after the killing each of the killed served again.
    served_s: list[list[float]] = field(default_factory=list)
    gossip_bytes: list[float] = field(default_factory=list)
    #: Pings and all, as the links count them: without CURVE, ZMTP and TCP.
    link_bytes: list[float] = field(default_factory=list)
    link_messages: list[float] = field(default_factory=list)
    #: Of a core, while nothing but gossip and pings happens.
    cpu: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    links: list[float] = field(default_factory=list)


class Process:
    """One `tests.bench.scale_host`."""

    def __init__(self, folder: Path, numbers: list[int]) -> None:
        self.numbers = numbers
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def begin(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.scale_host", str(self._folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=(self._folder / f"nodes{self.numbers[0]}.log").open("ab"),
            limit=1 << 26,
        )

    async def do(self, name: str, *arguments: Any) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), 2 * PATIENCE_S)
        if not line:
            raise RuntimeError(f"a process of nodes ended: see nodes{self.numbers[0]}.log")
        return json.loads(line)

    async def kill(self) -> None:
        """As when the power fails: nobody says goodbye."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def cpu_s(self) -> float:
        assert self._process is not None
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def memory_mb(self) -> float:
        assert self._process is not None
        return float(psutil.Process(self._process.pid).memory_info().rss) / 1e6


class Fleet:
    """All processes; commands go to all of them at once."""

    def __init__(self, folder: Path, nodes: int) -> None:
        step = NODES_PER_PROCESS
        spans = [[*range(at, min(at + step, nodes))] for at in range(0, nodes, step)]
        self.processes = [Process(folder, numbers) for numbers in spans]
        self.truth: dict[str, Any] = {}
        #: Each node's, the same after every restart: that is where its peers look for it.
        self.ports = _free_ports(nodes)

    async def all(self, name: str, *arguments: Any) -> list[Any]:
        return await asyncio.gather(*(each.do(name, *arguments) for each in self.processes))

    async def found(self) -> None:
        """A mesh with all nodes as members; all processes run, and no nodes."""
        await asyncio.gather(*(each.begin() for each in self.processes))
        first, *_ = self.processes
        await first.do("start", [0], self.ports)
        nodes = sum(len(each.numbers) for each in self.processes)
        for process in self.processes:
            later = [number for number in process.numbers if number]
            token = await first.do("invite", min(nodes, len(later)))
            await process.do("join", later, token)
        await first.do("close")
        await self.stop()

    async def start(self, processes: Sequence[Process]) -> list[float]:
        """Start these processes and all of their nodes. When (monotonic time) each served."""
        await asyncio.gather(*(each.begin() for each in processes))
        starting = (each.do("start", each.numbers, self.ports) for each in processes)
        served: list[float] = []
        for told in await asyncio.gather(*starting):
            served += told.pop("at")
            self.truth |= told
        return served

    async def converged(self, since: float) -> float:
        """Seconds from ``since`` until all know each other's card and latest block."""
        for told in await self.all("truth"):
            self.truth |= told
        known: list[float] = await self.all("know", self.truth, PATIENCE_S)
        if min(known) < 0:
            raise RuntimeError(f"no convergence within {PATIENCE_S:.0f} s")
        return max(0.0, max(known) - since)

    async def news(self, processes: Sequence[Process], numbers: Sequence[int]) -> float:
        """New blocks at these nodes; seconds until everybody knows."""
        asked = []
        for process in processes:
            mine = [number for number in process.numbers if number in numbers]
            if mine:
                asked.append(process.do("cache", mine, NEW_BLOCKS))
        told = await asyncio.gather(*asked)
        since = max(each.pop("at")[0] for each in told)
        return await self.converged(since)

    async def stop(self) -> None:
        await asyncio.gather(*(each.kill() for each in self.processes))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def runs(quick: bool) -> int:
    """How often `measure` tells that it has done one."""
    return QUICK_ROUNDS * len(QUICK_NODES) if quick else ROUNDS * len(NODES)


def measure(quick: bool, on_run: Callable[[], None]) -> dict[str, Any]:
    """Real nodes, and the simulator's opinion."""
    sizes, rounds = (QUICK_NODES, QUICK_ROUNDS) if quick else (NODES, ROUNDS)
    real = {}
    for nodes in sizes:
        figures = Figures(nodes, NODES_PER_PROCESS)
        with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
            asyncio.run(_rounds(Path(folder), figures, rounds, on_run))
        real[str(nodes)] = asdict(figures)
    served_s = {nodes: real[str(nodes)]["served_s"] for nodes in sizes}
    projected = _QUICK_PROJECTED if quick else _PROJECTED
    return {"real": real, "simulated": scale_sim.measure(served_s, projected, quick)}


async def _rounds(folder: Path, told: Figures, rounds: int, on_run: Callable[[], None]) -> None:
    write_tiny_gguf(folder / "tiny.gguf")
    dice = random.Random(0)
    fleet = Fleet(folder, told.nodes)
    try:
        await fleet.found()
        for _ in range(rounds):
            await _round(fleet, told, dice)
            await fleet.stop()
            on_run()
    finally:
        await fleet.stop()


async def _round(fleet: Fleet, told: Figures, dice: random.Random) -> None:
    fleet.truth.clear()
    told.start_s.append(await fleet.converged(max(await fleet.start(fleet.processes))))
    await asyncio.sleep(SETTLE_S)
    await _steady(fleet, told)

    everybody = [number for each in fleet.processes for number in each.numbers]
    for _ in range(NEWS):
        await asyncio.sleep(dice.random())
        told.one_news_s.append(await fleet.news(fleet.processes, [dice.choice(everybody)]))
    for _ in range(REPEATS):
        await asyncio.sleep(dice.random())
        told.all_news_s.append(await fleet.news(fleet.processes, everybody))

    half = len(fleet.processes) // 2
    numbers = {
        number: int(at >= half) for at, p in enumerate(fleet.processes) for number in p.numbers
    }
    parts: dict[str, int] = {}
    for process in fleet.processes:
        mine = await process.do("truth")
        parts |= dict.fromkeys(mine, numbers[process.numbers[0]])
    await fleet.all("part", parts)
    await asyncio.sleep(SPLIT_S)
    await asyncio.gather(*(each.do("cache", each.numbers, 1) for each in fleet.processes))
    await fleet.all("part", {})
    told.partition_s.append(await fleet.converged(time.monotonic()))
    # Until no attempt to dial is left that began before and waits for what was thrown away.
    await asyncio.sleep(HANDSHAKE_S)

    gone = fleet.processes[1 : 1 + max(1, round(RESTARTED_SHARE * len(fleet.processes)))]
    for _ in range(REPEATS):
        await asyncio.sleep(SETTLE_S)
        await asyncio.gather(*(each.kill() for each in gone))
        killed_s = time.monotonic()
        served = await fleet.start(gone)
        told.restart_s.append(await fleet.converged(max(served)))
        told.served_s.append([at - killed_s for at in served])


async def _steady(fleet: Fleet, told: Figures) -> None:
    """Nothing happens but gossip and pings: first what it takes of the CPU, then bytes."""
    before, links = [each.cpu_s() for each in fleet.processes], await fleet.all("links")
    begun_s = time.monotonic()
    await asyncio.sleep(STEADY_S)
    seconds = time.monotonic() - begun_s
    used_s = sum(each.cpu_s() for each in fleet.processes) - sum(before)
    after = await fleet.all("links")
    told.cpu.append(used_s / seconds / told.nodes)
    for place, samples in ((1, told.link_messages), (2, told.link_bytes)):
        sent = sum(each[place] for each in after) - sum(each[place] for each in links)
        samples.append(sent / seconds / told.nodes)
    told.links.append(sum(each[0] for each in after) / told.nodes)
    told.memory_mb.append(sum(each.memory_mb() for each in fleet.processes) / told.nodes)
    begun_s = time.monotonic()
    await fleet.all("count", True)
    await asyncio.sleep(STEADY_S)
    counted = await fleet.all("count", False)
    seconds = time.monotonic() - begun_s
    told.gossip_bytes.append(sum(each[1] for each in counted) / seconds / told.nodes)


def tables(told: dict[str, Any]) -> str:
    """Real beside simulated, and the projection, in Markdown."""
    simulated = told["simulated"]
    parts = [_beside(real, simulated[nodes]) for nodes, real in told["real"].items()]
    projection = [
        [
            f"{int(size):,}",
            f"{statistics.median(each['gossip_bytes']) / 1e3:,.1f}",
            f"{statistics.median(each['one_news_s']) / GOSSIP_INTERVAL_S:.1f}",
            f"{statistics.median(each['all_news_s']) / GOSSIP_INTERVAL_S:.1f}",
            each["how"],
        ]
        for size, each in simulated.items()
    ]
    heads = ("simulated nodes", "gossip, idle: kB/s", "one's news: rounds", "all's: rounds", "how")
    return "\n\n".join((*parts, markdown(heads, projection)))


def _beside(real: dict[str, Any], same: dict[str, Any]) -> str:
    """One size of mesh."""
    rows, restarted = [], len(real["served_s"][0])
    for title, name, form in (
        ("gossip, idle: bytes/s and node", "gossip_bytes", "{:,.0f}"),
        ("one node's news are everywhere, s", "one_news_s", "{:.2f}"),
        ("all nodes' news are, s", "all_news_s", "{:.2f}"),
        (f"after {restarted} were killed and restarted, s", "restart_s", "{:.1f}"),
        ("after a partition, s", "partition_s", "{:.1f}"),
        ("after a start, s", "start_s", "{:.1f}"),
    ):
        mine = statistics.median(real[name])
        theirs = statistics.median(same[name]) if name in same else None
        rows.append(
            [
                title,
                f"{form.format(mine)} (worst {form.format(max(real[name]))})",
                "" if theirs is None else form.format(theirs),
                "" if theirs is None else f"{mine / theirs:.2f}",
            ]
        )
    median = {
        name: statistics.median(real[name])
        for name in ("cpu", "memory_mb", "links", "link_bytes", "link_messages")
    }
    return (
        markdown((f"{real['nodes']} nodes", "real", "simulated", "real / simulated"), rows)
        + f"\n\nA node has {median['links']:.0f} links, takes {median['cpu']:.1%} of a core while "
        f"idle and {median['memory_mb']:.0f} MB, {real['nodes_per_process']} in a process; "
        f"{median['link_messages']:.0f} messages and {median['link_bytes'] / 1e3:.1f} kB go out "
        "per second, pings among them."
    )
