"""Who owns a name may take any time to tell where it is; nobody else waits for that."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from overlay.identity.multiaddr import Multiaddr
from overlay.limits import ADDRESSES_MAX, LOOKUPS_MAX
from overlay.transport.names import Names
from tests.overlay.transport.nodes import PATIENCE_S, eventually

SLOW = Multiaddr("dns4", "slow.example", 7710)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Names are found at the end. The threads that look one up."""
    looking: list[int] = []
    end = threading.Event()

    def look_up(*_: object, **__: object) -> list[Any]:
        looking.append(threading.get_ident())
        end.wait(PATIENCE_S)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield looking
    end.set()


async def test_nothing_else_waits_for_a_slow_name(slow: list[int]) -> None:
    names = Names()
    tasks = [asyncio.create_task(names.resolve(SLOW)) for _ in range(LOOKUPS_MAX + 1)]
    await eventually(lambda: len(slow) == LOOKUPS_MAX)
    async with asyncio.timeout(PATIENCE_S / 2):
        known = Multiaddr("ip4", "192.0.2.7", 7710)
        assert await names.resolve(known) == [known.endpoint]
        await asyncio.to_thread(threading.get_ident)
    assert len(slow) == LOOKUPS_MAX
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def test_a_slow_name_does_not_keep_a_process_from_ending() -> None:
    code = """
import asyncio, contextlib, socket, time
from overlay.identity.multiaddr import Multiaddr
from overlay.transport.names import Names
socket.getaddrinfo = lambda *_, **__: time.sleep(3600)
async def main():
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await Names().resolve(Multiaddr("dns4", "slow.example", 7710))
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S).returncode == 0


async def test_a_name_has_a_few_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = [f"192.0.2.{number}" for number in range(100)]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 7710)) for host in hosts]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [*found, *found])
    endpoints = await Names().resolve(SLOW)
    assert endpoints == [f"tcp://{host}:7710" for host in hosts[:ADDRESSES_MAX]]


async def test_a_name_that_nobody_knows_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert await Names().resolve(SLOW) == []
