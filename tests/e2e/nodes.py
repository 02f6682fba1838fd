"""Real nodes as real processes, driven only through the command line and HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

#: Longer than anything takes on a loaded machine; tests wait for events, not for this.
PATIENCE_S = 60.0


@dataclass
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def hearth(*args: str, stdin: str | None = None, within: Sequence[str] = ()) -> Finished:
    """Run one ``hearth`` command to its end; ``within``: the command that runs it, if any."""
    process = await asyncio.create_subprocess_exec(
        *(*within, sys.executable, "-m", "cli", *args),
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    data = None if stdin is None else stdin.encode()
    out, err = await asyncio.wait_for(process.communicate(data), PATIENCE_S)
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


@dataclass
class RunningNode:
    """``hearth up`` in a process of its own."""

    home: Path
    name: str
    args: tuple[str, ...] = ()
    #: What runs ``up``, as arguments of Python.
    program: tuple[str, ...] = ("-m", "cli")
    #: The command that runs Python, if any.
    within: tuple[str, ...] = ()
    process: asyncio.subprocess.Process | None = None
    ready_line: str = ""
    api: str = ""
    _http: httpx.AsyncClient | None = field(default=None, repr=False)

    async def start(self) -> RunningNode:
        """Start it and wait for its ``ready`` line."""
        self.process = await asyncio.create_subprocess_exec(
            *(*self.within, sys.executable, *self.program, "up"),
            *("--home", str(self.home), "--name", self.name),
            *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--no-lan", *self.args),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=(self.home.parent / f"{self.name}.log").open("ab"),
            env={**os.environ, "NO_COLOR": "1"},
        )
        assert self.process.stdout is not None
        while True:
            raw = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S)
            line = raw.decode().strip()
            assert raw, f"{self.name} ended before it was ready: see its log"
            if line.startswith("ready"):
                break
        self.ready_line = line
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        self.api = words["api"]
        self._http = httpx.AsyncClient(base_url=self.api, timeout=PATIENCE_S)
        return self

    @property
    def http(self) -> httpx.AsyncClient:
        assert self._http is not None, "not started"
        return self._http

    async def status(self) -> dict[str, Any]:
        response = await self.http.get("/mesh/status")
        return dict(response.raise_for_status().json())

    async def peer(self, name: str) -> dict[str, Any] | None:
        """What this node's status says of a peer."""
        return next((p for p in (await self.status())["peers"] if p["name"] == name), None)

    async def chat(self, content: str, **fields: Any) -> dict[str, Any]:
        """One answer, not streamed."""
        response = await self.http.post("/v1/chat/completions", json=chat_body(content, **fields))
        return dict(response.raise_for_status().json())

    def kill(self) -> None:
        """kill -9, as when a friend's battery dies."""
        assert self.process is not None
        self.process.kill()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by that signal; its exit code."""
        assert self.process is not None
        if self._http is not None:
            await self._http.aclose()
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


def chat_body(content: str, *, system: str | None = None, **fields: Any) -> dict[str, Any]:
    """A request body; greedy and short unless told otherwise."""
    messages = [{"role": "user", "content": content}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages, "temperature": 0, "max_tokens": 16, **fields}


@asynccontextmanager
async def ending(nodes: Sequence[RunningNode]) -> AsyncIterator[None]:
    """In the end, those of the nodes that were started are stopped."""
    try:
        yield
    finally:
        for node in nodes:
            if node.process is not None:
                await node.stop()


async def command(node: RunningNode, name: str, *arguments: str) -> Any:
    """What a ``hearth`` command in the node's home says, as JSON; it must succeed."""
    finished = await hearth(name, *arguments, "--home", str(node.home), "--json")
    assert finished.code == 0, finished.err + finished.out
    return finished.json


async def token_of(node: RunningNode, *options: str) -> str:
    """Of a fresh invite."""
    return str((await command(node, "invite", *options))["token"])


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Poll another process until ``condition`` holds; there is no event to await across it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await condition()
            if found:
                return found
            await asyncio.sleep(0.05)
    raise AssertionError(f"never happened: {what}")


async def up(node: RunningNode, name: str) -> dict[str, Any]:
    """Wait until ``node`` lists ``name`` as UP, with an RTT and by gossip; returns its entry."""

    async def listed() -> dict[str, Any] | None:
        peer = await node.peer(name)
        heard = peer and peer["rtt_ms"] is not None and peer["incarnation"] is not None
        return peer if peer and heard and peer["state"] == "UP" else None

    return dict(await until(listed, f"{node.name} lists {name} as UP"))
