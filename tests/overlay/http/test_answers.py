"""Hanging up, and long silences: the endpoint against a hand-held client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Scope

from overlay.http.answers import AnswerEndpoint
from overlay.http.backend import Text
from overlay.http.parse import parse_chat
from overlay.http.shapes import SSE_KEEP_ALIVE, ChatShape
from tests.overlay.http.scripted import ANSWERED, ScriptedBackend


class Client:
    """One HTTP client, as ASGI shows it."""

    def __init__(self, **fields: Any) -> None:
        body = {"messages": [{"role": "user", "content": "hi"}], **fields}
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox.put_nowait({"type": "http.request", "body": json.dumps(body).encode()})
        self.received: list[Message] = []
        self.arrived = asyncio.Event()

    @property
    def scope(self) -> Scope:
        return {"type": "http", "method": "POST", "path": "/", "headers": []}

    async def receive(self) -> Message:
        return await self._inbox.get()

    async def send(self, message: Message) -> None:
        self.received.append(message)
        self.arrived.set()

    def hang_up(self) -> None:
        self._inbox.put_nowait({"type": "http.disconnect"})

    async def call(self, backend: ScriptedBackend, keep_alive_s: float = 3600) -> None:
        endpoint = AnswerEndpoint(backend, parse_chat, ChatShape(), keep_alive_s)
        await endpoint(self.scope, self.receive, self.send)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.received)


async def test_hanging_up_in_mid_stream_closes_the_answer() -> None:
    client = Client(stream=True)
    backend = ScriptedBackend(Text("Hel"), asyncio.Event())
    calling = asyncio.create_task(client.call(backend))
    await client.arrived.wait()
    client.hang_up()
    await calling
    assert backend.closed.is_set()
    assert b"[DONE]" not in client.body


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_before_the_first_token_closes_the_answer(stream: bool) -> None:
    client = Client(stream=stream)
    backend = ScriptedBackend(asyncio.Event())
    client.hang_up()
    await client.call(backend)
    assert backend.closed.is_set()
    assert client.received == []


async def test_stopping_the_server_closes_the_answer() -> None:
    client = Client(stream=True)
    backend = ScriptedBackend(Text("Hel"), asyncio.Event())
    calling = asyncio.create_task(client.call(backend))
    await client.arrived.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert backend.closed.is_set()


async def test_a_long_prefill_is_filled_with_comments() -> None:
    go_on = asyncio.Event()
    client = Client(stream=True)
    backend = ScriptedBackend(go_on, Text("Hi"), ANSWERED)
    calling = asyncio.create_task(client.call(backend, keep_alive_s=0.01))
    await client.arrived.wait()
    go_on.set()
    await calling
    start, first, *_ = client.received
    assert start["status"] == 200
    assert first["body"] == SSE_KEEP_ALIVE
    assert client.body.count(b"data: ") == 4
    assert client.body.endswith(b"data: [DONE]\n\n")
    assert client.received[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_an_error_after_a_comment_is_an_event() -> None:
    go_on = asyncio.Event()
    client = Client(stream=True)
    backend = ScriptedBackend(go_on, RuntimeError("secret"))
    calling = asyncio.create_task(client.call(backend, keep_alive_s=0.01))
    await client.arrived.wait()
    go_on.set()
    await calling
    assert b'data: {"error":{' in client.body
    assert b"secret" not in client.body
