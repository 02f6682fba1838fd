"""A run of real nodes under one policy: which requests went where, and how long they took.

The nodes' users ask a list of questions, a few at a time: a closed loop, for all nodes share one
machine. The nodes are fresh, their caches empty.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.bench.mmlu_like import Request
from tests.bench.proxied_mesh import ProxiedMesh, Setup, proxied_mesh
from tests.bench.sglang_router import sglang_router
from tests.bench.sse import Connection
from tests.support.delay_proxy import DelayProxy

HEARTH: Final = "hearth"
LOCAL_ONLY: Final = "local-only"
SGLANG_ROUTER: Final = "sglang-router"


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer, as its user saw it. Nodes are told by their numbers."""

    request: int
    subject: int
    origin: int
    executor: int
    hops: int
    #: Since the first request of the run.
    sent_s: float
    ttft_ms: float
    total_ms: float
    prompt_tokens: int
    cached_tokens: int
    estimated_match: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of one policy. ``samples``: in the order of the requests."""

    policy: str
    samples: list[Sample]
    seconds: float
    #: Between nodes, as they measured it, when all was done.
    rtt_ms: list[float]
    #: Prompt tokens per second, as each node measured them.
    prefill_rates: list[float]
    #: How long each node's engine computed.
    busy_s: list[float]


async def measure(
    policy: str,
    setup: Setup,
    requests: Sequence[Request],
    *,
    clients: int,
    router: Path | None,
    done: Callable[[], None],
    folder: Path,
) -> Figures:
    """Ask all ``requests`` of a mesh under ``policy``, ``clients`` at a time.

    ``policy``: `HEARTH`, one of `overlay.sim.baselines`, or `SGLANG_ROUTER`, whose command is
    ``router``. ``done`` is called after each answer.
    """
    own = {HEARTH: None, SGLANG_ROUTER: LOCAL_ONLY}.get(policy, policy)
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(proxied_mesh(setup, own, folder))
        ports = [port_of(node.api) for node in mesh.nodes]
        if policy == SGLANG_ROUTER:
            assert router is not None, "there is a router"
            apis = await stack.enter_async_context(_delayed(setup, ports))
            log = folder / "sglang-router.log"
            port = await stack.enter_async_context(sglang_router(router, apis, log))
            ports = [port] * setup.nodes
        begun_s = time.perf_counter()
        samples = await _ask_all(mesh, ports, requests, clients, done)
        seconds = time.perf_counter() - begun_s
        return Figures(
            policy=policy,
            samples=samples,
            seconds=seconds,
            rtt_ms=await mesh.round_trips_ms(),
            prefill_rates=await mesh.prefill_rates(),
            busy_s=await mesh.busy_s(),
        )


async def _ask_all(
    mesh: ProxiedMesh,
    ports: Sequence[int],
    requests: Sequence[Request],
    clients: int,
    done: Callable[[], None],
) -> list[Sample]:
    """``ports``: where each node's user asks."""
    left = deque(enumerate(requests))
    samples: list[Sample] = []
    model = (await mesh.nodes[0].status())["models"][0]
    begun_s = time.perf_counter()

    async def client() -> None:
        while left:
            number, request = left.popleft()
            sent_s = time.perf_counter() - begun_s
            last, ttft_ms = await ask(ports[request.origin], model, request)
            total_ms = (time.perf_counter() - begun_s - sent_s) * 1000
            told, usage = last["hearth"], last["usage"]
            assert usage["prompt_tokens"] == len(request.prompt.tokens), usage
            samples.append(
                Sample(
                    request=number,
                    subject=request.subject,
                    origin=request.origin,
                    executor=mesh.peer_ids.index(told["served_by"]),
                    hops=told["hops"],
                    sent_s=sent_s,
                    ttft_ms=ttft_ms,
                    total_ms=total_ms,
                    prompt_tokens=usage["prompt_tokens"],
                    cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
                    estimated_match=told["estimated_match"],
                )
            )
            done()

    await asyncio.gather(*(client() for _ in range(clients)))
    return sorted(samples, key=lambda sample: sample.request)


async def ask(port: int, model: str, request: Request) -> tuple[dict[str, Any], float]:
    """Stream one answer; returns the last event, and the time to the first text in ms."""
    body = {
        "model": model,
        "prompt": request.prompt.text,
        "max_tokens": request.answer_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = await Connection.open(port)
    try:
        last: dict[str, Any] = {}
        first_s: float | None = None
        asked_s = time.perf_counter()
        async for last in connection.post("/v1/completions", body):
            assert "error" not in last, last
            if first_s is None and any(choice["text"] for choice in last["choices"]):
                first_s = time.perf_counter()
    finally:
        connection.close()
    assert first_s is not None, "no text came"
    return last, (first_s - asked_s) * 1000


@asynccontextmanager
async def _delayed(setup: Setup, ports: Sequence[int]) -> AsyncIterator[list[str]]:
    """URLs of the APIs at these ports, as far away as nodes are from each other."""
    rng = random.Random(setup.seed)
    async with AsyncExitStack() as stack:
        urls = []
        for port in ports:
            proxy = await DelayProxy.start(setup.delay_ms / 1000, setup.jitter_ms / 1000, rng)
            stack.push_async_callback(proxy.close)
            proxy.target = "127.0.0.1", port
            urls.append(f"http://127.0.0.1:{proxy.port}")
        yield urls


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None, url
    return port
