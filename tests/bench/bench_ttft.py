"""Time to first token of real nodes: cold, hot, and forwarded from a cold node to a warm one.

Two nodes, each a process as ``hearth up`` makes it, are asked over HTTP; beside them stands the
rival, `llama_cpp.Llama`, on the same file with the same threads. Each round has a system prompt
that nobody has seen, so that its first request is truly cold. One thing computes at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from tests.e2e.nodes import PATIENCE_S, RunningNode, chat_body, hearth, until, up

#: An answer needs few tokens here: only the first counts, the rest show that it streams.
ANSWER_TOKENS: Final = 4
#: KV cells of the rival: several prompts' worth, as it holds one conversation at a time.
RIVAL_CONTEXT: Final = 4096
#: Shares of a prompt's tokens: at most this much is cached when cold, at least this when warm.
COLD_MATCH_MAX: Final = 0.1
WARM_MATCH_MIN: Final = 0.8

#: Before each request: in life, too, a machine has been idle for a moment when one comes.
PAUSE_S: Final = 0.3

COLD_HOME: Final = "cold, at home"
HOT_HOME: Final = "hot, at home"
FORWARDED: Final = "forwarded, cold node to warm one"
COLD_AWAY: Final = "cold, at the node that forwarded"
COLD_RIVAL: Final = "cold, llama-cpp-python"
HOT_RIVAL: Final = "hot, llama-cpp-python"
CASES: Final = (COLD_HOME, HOT_HOME, FORWARDED, COLD_AWAY, COLD_RIVAL, HOT_RIVAL)

#: Equally long, as the model counts.
QUESTIONS: Final = tuple(f"What should I know about topic {topic}?" for topic in (3, 5, 7, 9))


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. ``told_ms`` is the node's own ``hearth.ttft_ms``; the rival tells none."""

    case: str
    round: int
    ttft_ms: float
    told_ms: float | None
    prompt_tokens: int
    cached_tokens: int | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured with one model."""

    samples: list[Sample]
    threads: int
    #: From the end of the answer that warmed A until B knew of it, for each round.
    gossip_ms: list[float]
    #: Round trip of B's link to A, for each round.
    rtt_ms: list[float]


def system_prompt(edition: str) -> str:
    """About 600 tokens that differ from every other edition's from their first block on."""
    rules = (
        f"Rule {number}: when a guest asks about topic {number}, be brief, kind and exact."
        for number in range(1, 28)
    )
    return f"These are the house rules in their edition {edition}. " + " ".join(rules)


async def measure(model: Path, rounds: int, done: Callable[[], None], folder: Path) -> Figures:
    """Run all cases ``rounds`` times, after one round that is not counted.

    ``done`` is called after each round; homes and logs go to ``folder``.
    """
    async with _pair(model, folder) as (warm, cold):
        threads = _threads_of(warm)
        async with _rival(model, threads) as rival:
            figures = Figures([], threads, [], [])
            for number in range(rounds + 1):
                samples, gossip_ms, rtt_ms = await _round(number, warm, cold, rival)
                if number > 0:  # the first finds files unread and speeds unmeasured
                    figures.samples.extend(samples)
                    figures.gossip_ms.append(gossip_ms)
                    figures.rtt_ms.append(rtt_ms)
                done()
    return figures


async def _round(
    number: int, home: RunningNode, away: RunningNode, rival: Rival
) -> tuple[list[Sample], float, float]:
    system = system_prompt(f"number {number}")
    first, second, third, fourth = QUESTIONS
    known = await _blocks_of(home, away)
    samples = [await _ask(home, COLD_HOME, number, system, first, route="local")]
    gossip_ms, rtt_ms = await _gossiped(home, away, more_than=known)
    for forwarded in (False, True) if number % 2 else (True, False):  # they take turns
        if forwarded:
            await _known_idle(home, away)
            samples.append(
                await _ask(away, FORWARDED, number, system, third, route="mesh", server=home)
            )
        else:
            samples.append(await _ask(home, HOT_HOME, number, system, second, route="local"))
    samples += [
        await _ask(away, COLD_AWAY, number, system, fourth, route="local"),
        await rival.ask(COLD_RIVAL, number, system, first, fresh=True),
        await rival.ask(HOT_RIVAL, number, system, second, fresh=False),
    ]
    return samples, gossip_ms, rtt_ms


# --- Nodes --------------------------------------------------------------------------------------


@asynccontextmanager
async def _pair(model: Path, folder: Path) -> AsyncIterator[tuple[RunningNode, RunningNode]]:
    """Two nodes of one mesh that see each other."""
    args = ("--model", str(model))
    ann = RunningNode(folder / "ann", "ann", args)
    bob = RunningNode(folder / "bob", "bob", args)
    try:
        await ann.start()
        invited = await hearth("invite", "--home", str(ann.home), "--json")
        assert invited.code == 0, invited.err
        joined = await hearth("join", invited.json["token"], "--home", str(bob.home), "--json")
        assert joined.code == 0, joined.err
        await bob.start()
        await up(bob, "ann")
        await up(ann, "bob")
        yield ann, bob
    finally:
        for node in (ann, bob):
            if node.process is not None:
                await node.stop()


async def _ask(
    node: RunningNode,
    case: str,
    number: int,
    system: str,
    question: str,
    *,
    route: str,
    server: RunningNode | None = None,
) -> Sample:
    """Stream one answer and take the time to its first text, as the client sees it."""
    body = chat_body(
        question,
        system=system,
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=ANSWER_TOKENS,
        hearth={"route": route},
    )
    await asyncio.sleep(PAUSE_S)
    last: dict[str, Any] = {}
    first_s: float | None = None
    asked_s = time.perf_counter()
    async with node.http.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            last = json.loads(line.removeprefix("data: "))
            assert "error" not in last, last
            if first_s is None and any(c["delta"].get("content") for c in last["choices"]):
                first_s = time.perf_counter()
    assert first_s is not None, f"{case}: no text came"
    told, usage = last["hearth"], last["usage"]
    cached, length = usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]
    if server is None:
        assert told["route"] == "local", told
    else:
        assert (told["route"], told["hops"]) == ("forwarded", 1), told
        assert told["served_by"] == (await server.status())["peer_id"], told
    if case in (COLD_HOME, COLD_AWAY):
        assert cached <= COLD_MATCH_MAX * length, f"{case}: {cached} tokens were cached"
    else:
        assert cached >= WARM_MATCH_MIN * length, f"{case}: only {cached} tokens were cached"
    return Sample(case, number, (first_s - asked_s) * 1000, told["ttft_ms"], length, cached)


async def _blocks_of(home: RunningNode, seen_by: RunningNode) -> int:
    peer = await seen_by.peer(home.name)
    assert peer is not None, f"{seen_by.name} has lost {home.name}"
    return int(peer["summary_blocks"])


async def _gossiped(home: RunningNode, away: RunningNode, *, more_than: int) -> tuple[float, float]:
    """Wait until ``away`` holds the summary of ``home``, and knows that it is idle.

    Returns the milliseconds until it had the summary, and the round trip of their link.
    """
    since_s = time.perf_counter()
    current = int((await home.status())["cache"]["summary_blocks"])
    assert current > more_than, "the answer has added blocks to the summary"

    async def warm() -> bool:
        return await _blocks_of(home, away) == current

    await until(warm, f"{away.name} knows the summary of {home.name}")
    gossip_ms = (time.perf_counter() - since_s) * 1000
    return gossip_ms, await _known_idle(home, away)


async def _known_idle(home: RunningNode, away: RunningNode) -> float:
    """Wait until ``away`` knows that ``home`` is idle; returns the round trip of their link."""

    async def idle() -> dict[str, Any] | None:
        peer = await away.peer(home.name)
        return None if peer is None or peer["running"] or peer["queued"] else peer

    peer = await until(idle, f"{away.name} knows that {home.name} is idle")
    return float(peer["rtt_ms"])


def _threads_of(node: RunningNode) -> int:
    """The threads that the node's engine was started with."""
    assert node.process is not None
    for child in psutil.Process(node.process.pid).children(recursive=True):
        for word in child.cmdline():
            if word.startswith("--threads="):
                return int(word.removeprefix("--threads="))
    raise AssertionError(f"{node.name} has no engine process")


# --- The rival ----------------------------------------------------------------------------------


class Rival:
    """`tests.bench.rival` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(
        self, case: str, number: int, system: str, question: str, *, fresh: bool
    ) -> Sample:
        messages = chat_body(question, system=system)["messages"]
        request = {"messages": messages, "max_tokens": ANSWER_TOKENS, "fresh": fresh}
        await asyncio.sleep(PAUSE_S)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        told = json.loads(await self._line())
        assert "error" not in told, told
        return Sample(case, number, told["ttft_ms"], None, told["prompt_tokens"], None)

    async def ready(self) -> None:
        assert await self._line() == b"ready\n"

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        return await asyncio.wait_for(self._process.stdout.readline(), PATIENCE_S)


@asynccontextmanager
async def _rival(model: Path, threads: int) -> AsyncIterator[Rival]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.rival", str(model)),
        *("--threads", str(threads), "--context", str(RIVAL_CONTEXT)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        rival = Rival(process)
        await rival.ready()
        yield rival
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
