"""Nodes die, freeze, lose their engines and leave, and whoever asks another one notices nothing."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.nodes import RunningNode, chat_body, command, ending, token_of, until

pytestmark = pytest.mark.timeout(300)

#: Requests that are open at one time.
_ASKING = 4


@pytest.fixture
async def nodes(tmp_path: Path, tiny_model: Path) -> AsyncIterator[list[RunningNode]]:
    """One that has no model, and two that answer for it."""
    models = {"ann": "none", "bob": str(tiny_model), "cyd": str(tiny_model)}
    found = [RunningNode(tmp_path / name, name, ("--model", models[name])) for name in models]
    ann, *others = found
    async with ending(found):
        token = await token_of(await ann.start(), "--uses", "2")
        for node in others:
            await command(node, "join", token)
            await node.start()
            await until(partial(served, ann, node.name), f"{ann.name} hears of {node.name}")
        yield found


class Asking:
    """Requests to one node, one after the other and several at a time."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self._numbers = count()
        #: Whole answers, by the name of the node that gave them.
        self.served: Counter[str] = Counter()
        self.latest = ""

    async def go_on(self) -> None:
        """For ever. Raises whatever a request failed with."""
        while True:
            question = f"Question {next(self._numbers)}, what is it?"
            body = chat_body(question, max_tokens=64)
            response = await self._node.http.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            answer = response.json()
            [choice] = answer["choices"]
            assert choice["finish_reason"] in ("stop", "length"), answer
            assert answer["usage"]["completion_tokens"] > 0, answer
            self.latest = answer["hearth"]["served_by_name"]
            self.served[self.latest] += 1

    async def more(self, answers: int, name: str | None = None) -> None:
        """Wait until so many more were given, by the node of that name or by any."""

        def given() -> int:
            return self.served.total() if name is None else self.served[name]

        enough = given() + answers

        async def are_given() -> bool:
            return given() >= enough

        await until(are_given, f"{name or 'somebody'} answers")


async def answers(node: RunningNode) -> bool:
    """Whether the node itself does."""
    body = chat_body("And you?", max_tokens=1, hearth={"route": "local"})
    return (await node.http.post("/v1/chat/completions", json=body)).status_code == 200


async def served(seen_by: RunningNode, name: str) -> bool:
    """Whether the one has heard what the other serves."""
    peer = await seen_by.peer(name)
    return peer is not None and peer["state"] == "UP" and bool(peer["models"])


async def down(seen_by: RunningNode, name: str) -> None:
    async def told() -> bool:
        peer = await seen_by.peer(name)
        return peer is not None and peer["state"] != "UP"

    await until(told, f"{seen_by.name} sees that {name} is gone")


@asynccontextmanager
async def killed(node: RunningNode) -> AsyncIterator[None]:
    assert node.process is not None
    node.kill()
    await node.process.wait()
    yield
    await node.start()


@asynccontextmanager
async def frozen(node: RunningNode) -> AsyncIterator[None]:
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        node.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def parted(node: RunningNode) -> AsyncIterator[None]:
    assert await node.stop() == 0
    yield
    await node.start()


@asynccontextmanager
async def robbed_of_its_engine(node: RunningNode) -> AsyncIterator[None]:
    assert node.process is not None
    for engine in psutil.Process(node.process.pid).children():
        engine.kill()
    yield


async def while_asking(asking: Asking, troubles: Coroutine[Any, Any, None]) -> None:
    """Have the troubles happen meanwhile; raises what a request or they failed with."""
    tasks = [asyncio.create_task(asking.go_on()) for _ in range(_ASKING)]
    tasks.append(asyncio.create_task(troubles))
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


async def test_no_answer_is_lost_while_nodes_come_and_go(nodes: list[RunningNode]) -> None:
    ann, bob, cyd = nodes
    asking = Asking(ann)

    async def troubles() -> None:
        for trouble in (killed, frozen, robbed_of_its_engine, frozen, parted):
            # Whichever costs least answers nearly everything.
            await asking.more(2 * _ASKING)
            node, other = (bob, cyd) if asking.latest == bob.name else (cyd, bob)
            async with trouble(node):
                if trouble is not robbed_of_its_engine:
                    await down(ann, node.name)
                await asking.more(2 * _ASKING, other.name)
            await until(partial(served, ann, node.name), f"{node.name} is back")
            await until(partial(answers, node), f"{node.name} answers again")

    await while_asking(asking, troubles())


async def test_no_answer_is_lost_with_its_relay(tmp_path: Path, tiny_model: Path) -> None:
    """Of two that reach both who asks and who answers, which do not reach each other."""
    models = {"ann": "none", "bob": "none", "cyd": "none", "dan": str(tiny_model)}
    nodes = [RunningNode(tmp_path / name, name, ("--model", models[name])) for name in models]
    ann, bob, cyd, dan = nodes
    relays = ann, bob

    async def start(node: RunningNode) -> str:
        await node.start()
        stack.push_async_callback(node.stop)
        return str((await node.status())["listen"][0].rpartition("/")[2])

    async with AsyncExitStack() as stack:
        ports = [await start(ann)]
        token = await token_of(ann, "--uses", "3")
        await asyncio.gather(*(command(node, "join", token) for node in (bob, cyd, dan)))
        ports.append(await start(bob))
        for node in (cyd, dan):
            node.program = ("-m", "tests.e2e.homebound_node", ",".join(ports))
        await asyncio.gather(start(cyd), start(dan))
        ids = {(await node.status())["peer_id"]: node for node in relays}
        asking = Asking(cyd)

        async def relayed_by(*nodes: RunningNode) -> RunningNode:
            async def relay() -> RunningNode | None:
                peer = await cyd.peer("dan") if await served(cyd, "dan") else None
                found = None if peer is None else ids.get(peer["relay"])
                return found if found in nodes else None

            found = await until(relay, "there is a way from cyd to dan")
            assert isinstance(found, RunningNode)
            return found

        async def troubles() -> None:
            await asking.more(2 * _ASKING)
            relay = await relayed_by(*relays)
            relay.kill()
            await relayed_by(*(node for node in relays if node is not relay))
            await asking.more(2 * _ASKING)

        await relayed_by(*relays)
        await while_asking(asking, troubles())


async def test_a_closed_terminal_ends_a_node_as_ctrl_c_does(tmp_path: Path) -> None:
    node = await RunningNode(tmp_path / "ann", "ann", ("--model", "none")).start()
    assert (node.home / "runtime.json").exists()
    assert await node.stop(signal.SIGHUP) == 0
    assert not (node.home / "runtime.json").exists()


async def test_a_node_outlives_the_terminal_under_nohup(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "ann", "ann", ("--model", "none"), within=("nohup",))
    await node.start()
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)
    assert (await node.status())["name"] == "ann"
    assert await node.stop() == 0
