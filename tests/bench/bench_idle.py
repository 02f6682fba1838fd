"""What a node takes of the CPU when nobody asks it anything: two real nodes with a link, one of
which has the demo model loaded. What is measured is that one and its engine's process."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil

from tests.bench.report import markdown
from tests.e2e.nodes import RunningNode, hearth, up

ROUNDS: Final = 3
QUICK_ROUNDS: Final = 1
IDLE_S: Final = 60.0
QUICK_IDLE_S: Final = 15.0
#: What a start leaves to be done is done by then.
SETTLE_S: Final = 5.0
GOAL: Final = 0.01


def runs(quick: bool) -> int:
    """How often `measure` tells that it has done one."""
    return QUICK_ROUNDS if quick else ROUNDS


def measure(model: Path, quick: bool, on_run: Callable[[], None]) -> dict[str, list[float]]:
    """Shares of a core, one of each round."""
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        return asyncio.run(_measure(model, quick, on_run, Path(folder)))


async def _measure(
    model: Path, quick: bool, on_run: Callable[[], None], folder: Path
) -> dict[str, list[float]]:
    told: dict[str, list[float]] = {"node": [], "engine": []}
    node = RunningNode(folder / "node", "node", ("--model", str(model)))
    peer = RunningNode(folder / "peer", "peer", ("--model", "none"))
    try:
        await node.start()
        invited = await hearth("invite", "--home", str(node.home), "--json")
        await hearth("join", invited.json["token"], "--home", str(peer.home), "--name", "peer")
        await peer.start()
        await asyncio.gather(up(node, "peer"), up(peer, "node"))
        await asyncio.sleep(SETTLE_S)
        assert node.process is not None
        process = psutil.Process(node.process.pid)
        (engine,) = process.children()
        for _ in range(runs(quick)):
            before, begun_s = [_cpu_s(process), _cpu_s(engine)], time.monotonic()
            await asyncio.sleep(QUICK_IDLE_S if quick else IDLE_S)
            seconds = time.monotonic() - begun_s
            told["node"].append((_cpu_s(process) - before[0]) / seconds)
            told["engine"].append((_cpu_s(engine) - before[1]) / seconds)
            on_run()
    finally:
        await asyncio.gather(*(each.stop() for each in (node, peer) if each.process is not None))
    return told


def _cpu_s(process: psutil.Process) -> float:
    times: Any = process.cpu_times()
    return float(times.user + times.system)


def table(told: dict[str, list[float]]) -> str:
    """In Markdown."""
    rows = [
        [name, f"{statistics.median(shares):.2%}", f"{max(shares):.2%}"]
        for name, shares in told.items()
    ]
    both = [sum(pair) for pair in zip(*told.values(), strict=True)]
    kept = "yes" if max(both) < GOAL else "**no**"
    rows.append(["both", f"{statistics.median(both):.2%}", f"{max(both):.2%}"])
    return markdown(("process", "of a core, median", "worst"), rows) + f"\n\nBelow 1%: {kept}."
