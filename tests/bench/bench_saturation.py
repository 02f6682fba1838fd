"""Whether nodes whose machine decodes flat out take each other for dead, and find the dead ones.

Four whole nodes with the demo model, in one mesh on this machine, each asked by two clients at once
and without pause. Whatever a node judges comes from its log, so that nothing is missed between two
looks. Then one node after the other is killed with SIGKILL, while all others go on.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.bench.report import markdown
from tests.e2e.nodes import RunningNode, chat_body, hearth, up

NODES: Final = 4
CLIENTS_PER_NODE: Final = 2
ANSWER_TOKENS: Final = 128
MINUTES: Final = 5.0
QUICK_MINUTES: Final = 0.5
KILLS: Final = 4
QUICK_KILLS: Final = 2
GOAL_S: Final = 5.0
#: After this long a killed node is not found to be down any more.
PATIENCE_S: Final = 60.0
_DOWN: Final = re.compile(r"^(\S+) (\S+) is DOWN: (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Down:
    """``node`` judged ``peer`` to be down, at a Unix time."""

    node: str
    peer: str
    at_s: float
    reason: str


@dataclass(slots=True)
class Figures:
    """``cpu_share``: of all cores, while nobody was killed. ``kills_s``: until each other knew."""

    minutes: float
    cpu_share: float = 0.0
    answers: int = 0
    tokens: int = 0
    failed: list[str] = field(default_factory=list)
    false_downs: list[Down] = field(default_factory=list)
    kills_s: list[dict[str, float]] = field(default_factory=list)


async def measure(
    model: Path, minutes: float, kills: int, on_done: Callable[[], None], folder: Path
) -> Figures:
    """``on_done`` is called after the minutes, and after each kill."""
    program = ("-m", "tests.bench.logged_node")
    args = ("--model", str(model))
    nodes = [RunningNode(folder / f"node{n}", f"node{n}", args, program) for n in range(NODES)]
    figures = Figures(minutes)
    try:
        await _mesh(nodes)
        async with asyncio.TaskGroup() as group:
            clients = [
                group.create_task(_ask_for_ever(node, f"{node.name}, client {number}", figures))
                for node in nodes
                for number in range(CLIENTS_PER_NODE)
            ]
            await asyncio.sleep(5.0)  # until all decode
            before = _downs(nodes)
            figures.answers = figures.tokens = 0
            psutil.cpu_percent()
            await asyncio.sleep(60 * minutes)
            figures.cpu_share = psutil.cpu_percent() / 100
            figures.false_downs = [down for down in _downs(nodes) if down not in before]
            counted = figures.answers, figures.tokens, list(figures.failed)
            on_done()
            for number in range(kills):
                figures.kills_s.append(await _kill(nodes, nodes[number % NODES]))
                on_done()
            for client in clients:
                client.cancel()
        # Those who were served by a node that was killed are another matter.
        figures.answers, figures.tokens, figures.failed = counted
    finally:
        await asyncio.gather(*(node.stop() for node in nodes if node.process is not None))
    return figures


async def _mesh(nodes: list[RunningNode]) -> None:
    await nodes[0].start()
    invited = await hearth("invite", "--home", str(nodes[0].home), "--uses", "9", "--json")
    for node in nodes[1:]:
        joined = await hearth(
            *("join", str(invited.json["token"]), "--home", str(node.home)),
            *("--name", node.name, "--json"),
        )
        assert joined.code == 0, joined.err
        await node.start()
    await _all_up(nodes)


async def _all_up(nodes: list[RunningNode]) -> None:
    await asyncio.gather(
        *(up(one, other.name) for one in nodes for other in nodes if one is not other)
    )


async def _ask_for_ever(node: RunningNode, name: str, figures: Figures) -> None:
    """Each question is a new one. While the node is away, wait for it."""
    for number in range(1 << 30):
        body = chat_body(
            f"I am {name}. Tell me all you know about the number {number}.",
            max_tokens=ANSWER_TOKENS,
        )
        try:
            async with httpx.AsyncClient(base_url=node.api, timeout=120.0) as http:
                reply = (await http.post("/v1/chat/completions", json=body)).json()
            figures.tokens += reply["usage"]["completion_tokens"]
            figures.answers += 1
        except (httpx.HTTPError, KeyError) as error:
            figures.failed.append(f"{name}: {error!r}")
            await asyncio.sleep(0.5)


async def _kill(nodes: list[RunningNode], victim: RunningNode) -> dict[str, float]:
    """Seconds until each other node judged it down; then it is started anew."""
    before = _downs(nodes)
    killed_s = time.time()
    victim.kill()
    found: dict[str, float] = {}
    others = [node for node in nodes if node is not victim]
    while len(found) < len(others) and time.time() < killed_s + PATIENCE_S:
        await asyncio.sleep(0.05)
        for down in _downs(others):
            if down not in before and down.peer == victim.name:
                found.setdefault(down.node, down.at_s - killed_s)
    assert victim.process is not None
    await victim.process.wait()
    await victim.start()
    await _all_up(nodes)
    return {node.name: found.get(node.name, PATIENCE_S) for node in others}


def _downs(nodes: list[RunningNode]) -> list[Down]:
    """All that the nodes have judged so far."""
    return [
        Down(node.name, peer, float(at), reason)
        for node in nodes
        for at, peer, reason in _DOWN.findall((node.home.parent / f"{node.name}.log").read_text())
    ]


def table(figures: Figures) -> str:
    """In Markdown."""
    times = [seconds for kill in figures.kills_s for seconds in kill.values()]
    rows = [
        ("minutes under load", f"{figures.minutes:g}"),
        (f"of all {os.cpu_count()} cores used", f"{figures.cpu_share:.0%}"),
        ("answers", f"{figures.answers:,}"),
        ("answers that failed", f"{len(figures.failed)}"),
        ("tokens/s, all nodes", f"{figures.tokens / (60 * figures.minutes):.0f}"),
        ("live nodes judged DOWN", f"{len(figures.false_downs)}"),
        ("kills", f"{len(figures.kills_s)}"),
        ("DOWN after, s: median", f"{statistics.median(times):.1f}"),
        ("DOWN after, s: latest", f"{max(times):.1f}"),
    ]
    return markdown((f"{NODES} nodes, {CLIENTS_PER_NODE} clients at each", ""), rows)


def remarks(figures: Figures) -> list[str]:
    """The facts beside the table, a sentence each."""
    latest_s = max(seconds for kill in figures.kills_s for seconds in kill.values())
    told = [
        f"The goals, no live node DOWN and a killed one within {GOAL_S:.0f} s, are "
        f"{'met' if not figures.false_downs and latest_s <= GOAL_S else '**not met**'}."
    ]
    told += [
        f"{down.node} judged {down.peer} to be DOWN: {down.reason}" for down in figures.false_downs
    ]
    return [*told, *figures.failed]


def as_json(figures: Figures) -> dict[str, Any]:
    return asdict(figures)
