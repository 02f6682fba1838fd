"""A program that reaches the API, and has no key and nothing to ask."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from overlay.limits import HTTP_CONNECTIONS_MAX
from tests.chaos.honest import Honest
from tests.chaos.scene import PACE, Victim, lasting, under_attack
from tests.overlay.transport.nodes import PATIENCE_S

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def served(victim: Victim) -> bool:
    """Whether the owner is answered."""
    asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    async with httpx.AsyncClient(base_url=victim.api, timeout=PATIENCE_S) as owner:
        return (await owner.post("/v1/chat/completions", json=asked)).status_code == 200


async def test_connections_that_ask_nothing(victim: Victim, honest: Honest) -> None:
    """More than there are places for; every other one begins a request that has no end."""
    where = urlsplit(victim.api)
    async with under_attack(victim, honest):
        async for _ in lasting():
            with ExitStack() as stack:
                for number in range(HTTP_CONNECTIONS_MAX + 20):
                    each = stack.enter_context(
                        socket.create_connection((where.hostname, where.port))
                    )
                    if number % 2:
                        each.sendall(b"GET /health HTTP/1.1\r\nHost: 127")
                    await PACE.keep()
                assert await served(victim)


async def test_nonsense_after_a_refusal(victim: Victim, honest: Honest) -> None:
    """It leaves no trace in the log."""
    where = urlsplit(victim.api)
    size = victim.log.stat().st_size
    async with under_attack(victim, honest):
        async for _ in lasting(20):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            head = b"POST /mesh/leave HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked"
            writer.write(head + b"\r\n\r\n")
            assert b"401" in await reader.readline()
            writer.write(b"this is no chunk\r\n")
            writer.close()
        assert await served(victim)
    assert b"chunk" not in victim.log.read_bytes()[size:]
