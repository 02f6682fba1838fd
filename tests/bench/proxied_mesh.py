"""Real nodes of one mesh, each a process, with a network's delay on every link between them.

Each node is reached by its peers only through a `DelayProxy`, whose address it announces as its
own. Clients beside a node reach its API without delay.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.nodes import RunningNode, hearth, up
from tests.support.delay_proxy import DelayProxy

_COMPUTING: Final = re.compile(r"^hearth_computing_seconds_total\{.*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Setup:
    """What all nodes of a run have in common."""

    model: Path
    nodes: int
    #: The first so many serve the model; the others have none.
    serving: int
    #: One way, and what comes on top of it at most.
    delay_ms: float
    jitter_ms: float
    #: Of each node's KV cache; there is no other place for what was computed.
    cells: int
    #: Of each engine; 0: all physical cores.
    threads: int
    seed: int


@dataclass(frozen=True, slots=True)
class ProxiedMesh:
    """Nodes that see each other, and the proxies before them, in the same order."""

    nodes: list[RunningNode]
    proxies: list[DelayProxy]
    peer_ids: list[str]

    async def round_trips_ms(self) -> list[float]:
        """What every node has measured to every other."""
        return [peer["rtt_ms"] for node in self.nodes for peer in (await node.status())["peers"]]

    async def prefill_rates(self) -> list[float]:
        """Prompt tokens per second, as each engine has measured it."""
        statuses = [await node.status() for node in self.nodes]
        return [engine["prefill_rate"] for status in statuses for engine in status["engines"]]

    async def busy_s(self) -> list[float]:
        """How long each engine has computed."""
        pages = [(await node.http.get("/metrics")).text for node in self.nodes]
        return [float(seconds) for page in pages for seconds in _COMPUTING.findall(page)]


@asynccontextmanager
async def proxied_mesh(
    setup: Setup, policy: str | None, folder: Path
) -> AsyncIterator[ProxiedMesh]:
    """Fresh nodes with empty caches; homes and logs go to ``folder``.

    ``policy``: of `overlay.sim.baselines`; None: Hearth's own.
    """
    rng = random.Random(setup.seed)
    async with AsyncExitStack() as stack:
        nodes: list[RunningNode] = []
        proxies: list[DelayProxy] = []
        for number in range(setup.nodes):
            proxy = await DelayProxy.start(setup.delay_ms / 1000, setup.jitter_ms / 1000, rng)
            stack.push_async_callback(proxy.close)
            proxies.append(proxy)
            nodes.append(_node(setup, number, policy, proxy, folder))
        stack.push_async_callback(_stop, nodes)
        await _start(nodes[0], proxies[0])
        token = await _invite(nodes[0], setup.nodes)
        await asyncio.gather(*(_join(node, token) for node in nodes[1:]))
        later = zip(nodes[1:], proxies[1:], strict=True)
        await asyncio.gather(*(_start(node, proxy) for node, proxy in later))
        await asyncio.gather(
            *(up(one, other.name) for one in nodes for other in nodes if one is not other)
        )
        peer_ids = [str((await node.status())["peer_id"]) for node in nodes]
        mesh = ProxiedMesh(nodes, proxies, peer_ids)
        fastest_ms = min(await mesh.round_trips_ms())
        assert fastest_ms >= 2 * setup.delay_ms, f"a link of {fastest_ms} ms passes by its proxy"
        yield mesh


def _node(
    setup: Setup, number: int, policy: str | None, proxy: DelayProxy, folder: Path
) -> RunningNode:
    program = ["-m", "tests.bench.node_with_policy"]
    program += ["--announce", f"127.0.0.1:{proxy.port}", "--threads", str(setup.threads)]
    if policy is not None:
        program += ["--policy", policy]
    model = str(setup.model) if number < setup.serving else "none"
    args = ("--model", model, "--cells", str(setup.cells), "--ram-cache", "0")
    name = f"node{number}"
    return RunningNode(folder / name, name, args, tuple(program))


async def _start(node: RunningNode, proxy: DelayProxy) -> None:
    await node.start()
    listen = next(word for word in node.ready_line.split() if word.startswith("listen="))
    host, _, port = listen.removeprefix("listen=").rpartition(":")
    proxy.target = host, int(port)


async def _stop(nodes: Sequence[RunningNode]) -> None:
    await asyncio.gather(*(node.stop() for node in nodes if node.process is not None))


async def _invite(node: RunningNode, uses: int) -> str:
    invited = await hearth("invite", "--home", str(node.home), "--uses", str(uses), "--json")
    assert invited.code == 0, invited.err
    return str(invited.json["token"])


async def _join(node: RunningNode, token: str) -> None:
    joined = await hearth("join", token, "--home", str(node.home), "--name", node.name, "--json")
    assert joined.code == 0, joined.err
