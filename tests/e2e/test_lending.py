"""A machine lent on its owner's terms: real processes, driven as a user does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.nodes import RunningNode, chat_body, command, ending, hearth, token_of, until, up

pytestmark = [pytest.mark.demo, pytest.mark.timeout(300)]

#: The demo model's tokens that end a text: without them, its answers last.
GOES_ON = {"0": -100, "2": -100}


@pytest.fixture
async def nodes(tmp_path: Path, demo_model: Path) -> AsyncIterator[list[RunningNode]]:
    found = [RunningNode(tmp_path / name, name) for name in ("ann", "bob", "cyd")]
    async with ending(found):
        yield found


async def start_mesh(*nodes: RunningNode) -> None:
    """All of them in one mesh, each knowing what the others serve."""
    founder, *others = nodes
    await founder.start()
    token = await token_of(founder, "--uses", "9")
    for node in others:
        await command(node, "join", token)
        await node.start()
    for node in nodes:
        for other in nodes:
            if other is not node:
                await up(node, other.name)


async def serves(node: RunningNode, name: str, *, models: bool) -> None:
    """Wait until ``node`` has heard that ``name`` serves models, or that it serves none."""

    async def heard() -> bool:
        peer = await node.peer(name)
        return peer is not None and bool(peer["models"]) is models

    await until(heard, f"{node.name} hears what {name} serves")


async def stream(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


async def test_a_pause_in_mid_answer_and_over_a_restart(nodes: list[RunningNode]) -> None:
    ann, bob, cyd = nodes
    cyd.args = ("--model", "none")
    await start_mesh(ann, bob, cyd)
    await serves(cyd, "ann", models=True)
    await serves(cyd, "bob", models=True)
    ids = {node.name: (await node.status())["peer_id"] for node in nodes}

    # Whoever computes Cyd's answer pauses in the middle of it, and the other goes on.
    long: dict[str, Any] = {"max_tokens": 200, "logit_bias": GOES_ON}
    body = chat_body("Count from one to five hundred.", stream=True, **long)
    whole = (await ann.chat("Count from one to five hundred.", **long))["choices"][0]
    text, paused = "", None
    told: dict[str, Any] = {}
    async with cyd.http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for chunk in stream(response):
            assert "error" not in chunk
            text += "".join(c["delta"].get("content") or "" for c in chunk["choices"])
            told = chunk.get("hearth", told)
            if text and paused is None:
                running = [n for n in (ann, bob) if (await n.status())["requests"]["running"]]
                for paused in running:
                    reply = await hearth("pause", "--now", "--home", str(paused.home), "--json")
                    assert reply.json["paused"] is True
                    assert reply.json["open_guest_requests"] == 0
    assert paused is not None
    other = bob if paused is ann else ann
    assert text == whole["message"]["content"], "no token lost or doubled"
    assert (told["route"], told["served_by"]) == ("failed-over", ids[other.name])

    # Everybody sees it; it stays over a restart; the owner is served as ever.
    await serves(cyd, paused.name, models=False)
    shown = await hearth("status", "--home", str(cyd.home))
    assert "paused" in shown.out
    assert await paused.stop() == 0
    await paused.start()
    assert "lending=paused" in paused.ready_line
    assert "paused since" in (await hearth("status", "--home", str(paused.home))).out
    own = await paused.chat("Hello", hearth={"route": "local"})
    assert own["hearth"]["route"] == "local"
    await up(cyd, paused.name)
    assert (await cyd.chat("Hello again"))["hearth"]["served_by"] == ids[other.name]

    # Without anybody else, Cyd reads why.
    assert await other.stop() == 0
    refused = await cyd.http.post("/v1/chat/completions", json=chat_body("Hello"))
    assert refused.status_code == 503
    assert f"({paused.name}: paused)" in refused.json()["error"]["message"]

    assert (await hearth("resume", "--home", str(paused.home))).code == 0
    await serves(cyd, paused.name, models=True)
    assert (await cyd.chat("Hello"))["hearth"]["served_by"] == ids[paused.name]


async def test_a_friend_gets_what_the_owner_grants(
    nodes: list[RunningNode], tiny_model: Path
) -> None:
    ann, bob, _ = nodes
    ann.args = ("--model", "demo", "--model", str(tiny_model), "--private", tiny_model.stem)
    (ann.home).mkdir()
    (ann.home / "config.toml").write_text("guest_requests = 1\nguest_tokens_per_minute = 600\n")
    bob.args = ("--model", "none")
    await start_mesh(ann, bob)
    await serves(bob, "ann", models=True)
    lending = (await ann.status())["lending"]
    assert (lending["guest_requests"], lending["guest_tokens_per_minute"]) == (1, 600)

    # The private model is the owner's alone.
    (private,) = lending["private"]
    assert private in (await ann.status())["models"]
    peer = await bob.peer("ann")
    assert peer is not None
    assert private not in peer["models"]
    refused = await bob.http.post("/v1/chat/completions", json=chat_body("Hi", model=private))
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert private not in refused.json()["error"]["message"].partition("there is")[2]
    assert (await ann.chat("Hi", model=private))["hearth"]["route"] == "local"

    # One of Bob's requests at a time.
    long: dict[str, Any] = {"max_tokens": 500, "logit_bias": GOES_ON}
    body = chat_body("Count from one to five hundred.", stream=True, **long)
    async with bob.http.stream("POST", "/v1/chat/completions", json=body) as response:
        events = stream(response)  # Were it let go, the response would be closed with it.
        await anext(events)
        second = await bob.http.post("/v1/chat/completions", json=chat_body("Hello"))
        assert second.status_code == 503, second.text
        assert second.json()["error"]["code"] in ("overloaded", "no_route")
        assert (await ann.chat("Hello"))["usage"]["completion_tokens"] > 0, "the owner may"

    # Then his minute is used up, and he is told when to come again.
    number = count()

    async def used_up() -> httpx.Response | None:
        # Each of its own, as what is cached costs nothing.
        question = chat_body(f"{next(number)} more about this: " + "one two three four " * 60)
        reply = await bob.http.post("/v1/chat/completions", json=question)
        return None if reply.status_code in (200, 503) else reply

    reply = await until(used_up, "Bob has had his tokens")
    assert reply.status_code == 429
    assert reply.json()["error"]["code"] == "quota_used_up"
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    lending = (await ann.status())["lending"]
    bobs_id = (await bob.status())["peer_id"]
    assert 0 < lending["tokens_last_minute"][bobs_id] <= 600
    assert lending["refused"]["quota-used-up"] >= 1
    assert (await ann.chat("Hello again"))["hearth"]["route"] == "local"
