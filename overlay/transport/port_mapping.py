"""Has the router pass a port on to this node, for as long as it runs, if its owner asks for that.

A router gives a lease, which is renewed in time. One that was restarted has forgotten it, and is
asked again soon; so is another one, when this machine has moved to another network.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from overlay.identity.multiaddr import Multiaddr
from overlay.limits import GATEWAY_ANSWER_S, PORT_LEASE_S, PORT_RETRY_S
from overlay.transport.gateway import Gateway, GatewayError, PortTaken

log = logging.getLogger(__name__)

#: Other ports that are asked for when the node's own is taken, one after the other.
_OTHERS: Final = 4
_OTHER_PORTS: Final = (20_000, 60_000)

#: Finds the router, given this machine's addresses. Raises GatewayError.
Find = Callable[[Sequence[str]], Awaitable[Gateway]]


async def find_by_upnp(hosts: Sequence[str]) -> Gateway:
    """The router that answers to UPnP. Raises GatewayError."""
    try:
        # It takes a while, and many have no use for it.
        upnp = await asyncio.to_thread(__import__, "overlay.transport.upnp", fromlist=["upnp"])
    except ImportError:
        raise GatewayError(
            "the package async-upnp-client is missing: install it beside Hearth "
            "(pipx inject hearth-mesh async-upnp-client)"
        ) from None
    gateway: Gateway = await upnp.find_gateway(hosts)
    return gateway


class PortMapping:
    """Begins with the first `follow`, and ends with `close`."""

    def __init__(self, rng: random.Random, find: Find = find_by_upnp) -> None:
        #: Where the router is reached for this node; None: nowhere.
        self.external: Multiaddr | None = None
        #: Why that is so, or empty.
        self.failure = ""
        self._rng = rng
        self._find = find
        self._own: tuple[Multiaddr, ...] = ()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._gateway: Gateway | None = None
        #: The port that this node listens on there.
        self._inner = 0
        #: The port of its own that it passes on, or may.
        self._port: int | None = None

    def follow(self, own: Sequence[Multiaddr]) -> None:
        """What this node listens on, each interface's by itself; to be called when that changes."""
        if tuple(own) == self._own:
            return
        self._own = tuple(own)
        self._news.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Have the router forget it; takes seconds at most."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._end()

    async def _run(self) -> None:
        while True:
            pause_s = await self._keep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._news.wait()

    async def _keep(self) -> float:
        """Begin or renew; returns when to do that again, in seconds."""
        if self._news.is_set():
            self._news.clear()
            await self._end()
        try:
            external = await self._again() or await self._anew()
        except GatewayError as error:
            self._failed(str(error))
            return PORT_RETRY_S
        except Exception:
            # Nothing that a router does may end this.
            log.exception("a router could not be dealt with")
            self._failed("this node failed to deal with the router: see its log")
            return PORT_RETRY_S
        if external != self.external:
            log.info("the router passes on what comes to %s", external)
        self.external, self.failure = external, ""
        return PORT_LEASE_S / 3

    def _failed(self, failure: str) -> None:
        if failure != self.failure:
            log.warning("the router passes no port on to this node: %s", failure)
        self.external, self.failure = None, failure

    async def _again(self) -> Multiaddr | None:
        """From the router that did it so far; None if it does no more, or there is none."""
        if self._gateway is None:
            return None
        try:
            return await self._map(self._gateway)
        except GatewayError as error:
            # It may be another one by now, or the same one elsewhere.
            log.debug("the router failed, and is looked for anew: %s", error)
            await self._end()
            return None

    async def _anew(self) -> Multiaddr:
        ports = {a.host: a.port for a in self._own if a.family == "ip4" and not a.is_loopback}
        if not ports:
            raise GatewayError("this node listens on no IPv4 address that a router could reach")
        self._gateway = await self._find(list(ports))
        self._inner = ports[self._gateway.local_host]
        return await self._map(self._gateway)

    async def _map(self, gateway: Gateway) -> Multiaddr:
        host = await gateway.external_host()
        address = ipaddress.IPv4Address(host)
        if not address.is_global or address.is_multicast:
            raise GatewayError(
                f"the router is behind another one: its address there, {host}, is not public"
            )
        others = [self._rng.randrange(*_OTHER_PORTS) for _ in range(_OTHERS)]
        wanted = [self._inner, *others] if self._port is None else [self._port]
        for external_port in wanted:
            # Should this be cancelled, the router may have done it all the same.
            self._port = external_port
            try:
                await gateway.map(external_port, self._inner, PORT_LEASE_S)
                return Multiaddr.of(host, external_port)
            except PortTaken:
                self._port = None
            except GatewayError:
                self._port = None
                raise
        raise GatewayError(f"the router's port {wanted[0]} is taken, and so are others")

    async def _end(self) -> None:
        gateway, port = self._gateway, self._port
        self._gateway = self._port = self.external = None
        if gateway is None or port is None:
            return
        try:
            async with asyncio.timeout(GATEWAY_ANSWER_S):
                await gateway.unmap(port)
        except Exception as error:
            # Nothing that a router does may end this, nor keep the node from ending.
            log.debug(
                "the router goes on passing port %d on, while its lease lasts: %s", port, error
            )
