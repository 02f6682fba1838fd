"""Where the host of an address is, as its name says.

Whoever owns a name decides how long it takes to be looked up. asyncio does that in a few threads
that all of the process shares, and that it waits for when it ends. Here each look-up has a thread
of its own that nobody waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from overlay.identity.multiaddr import Multiaddr
from overlay.limits import ADDRESSES_MAX, LOOKUPS_MAX
from overlay.transport.places import Places


class Names:
    """Looks so many up at one time."""

    def __init__(self) -> None:
        self._at_once = Places(LOOKUPS_MAX)

    async def resolve(self, address: Multiaddr, failures: int = 0) -> list[str]:
        """The ZeroMQ endpoints of an address, a few at most; empty if its name is unknown.

        ZeroMQ would look names up in its I/O thread, and all links would wait. ``failures``: in a
        row, to dial whose address it is.
        """
        if address.family in ("ip4", "ip6"):
            return [address.endpoint]
        family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(address.family, 0)

        def look_up() -> Sequence[Any]:
            kind = socket.SOCK_STREAM
            return socket.getaddrinfo(address.host, address.port, family=family, type=kind)

        try:
            async with self._at_once.take(failures):
                found = await _aside(look_up)
        except OSError:
            return []
        hosts = dict.fromkeys(sockaddr[0] for *_, sockaddr in found)
        endpoints = [Multiaddr.of(host, address.port).endpoint for host in hosts if "%" not in host]
        return endpoints[:ADDRESSES_MAX]


async def _aside(call: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    """What it returns, or raises, in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Sequence[Any]] = loop.create_future()

    def tell(give: Callable[[Any], None], outcome: object) -> None:
        with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
            loop.call_soon_threadsafe(lambda: None if done.done() else give(outcome))

    def run() -> None:
        try:
            found = call()
        except Exception as error:
            tell(done.set_exception, error)
        else:
            tell(done.set_result, found)

    threading.Thread(target=run, daemon=True).start()
    return await done
