"""Where others may reach this node, as that changes: the machine moves, a router is found.

Members on the LAN are told of this machine's own addresses, and all others, through the card, of
these and of the routers'.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from overlay.identity.multiaddr import Multiaddr
from overlay.limits import ADDRESSES_MAX, INTERFACES_INTERVAL_S
from overlay.transport.interfaces import reachable_addresses
from overlay.transport.lan import LanDiscovery
from overlay.transport.port_mapping import PortMapping
from overlay.transport.transport import Transport

log = logging.getLogger(__name__)


class Whereabouts:
    """Times in seconds, of one monotonic clock.

    ``announced``: where others reach this node besides, as its owner says. ``discovery`` makes
    what announces this machine's addresses on the LAN, and looks for members there; None: nothing
    does. ``mapping``: None where no router is to be asked.
    """

    def __init__(
        self,
        transport: Transport,
        announced: Sequence[Multiaddr],
        discovery: Callable[[Sequence[Multiaddr]], LanDiscovery] | None,
        mapping: PortMapping | None,
    ) -> None:
        self.mapping = mapping
        self._transport = transport
        self._announced = tuple(announced)
        self._discovery = discovery
        self._bound: tuple[Multiaddr, ...] = ()
        #: What this machine has, and since when that is known.
        self._own: tuple[Multiaddr, ...] = ()
        self._looked = 0.0
        self._lan: LanDiscovery | None = None
        self._announcing: asyncio.Task[None] | None = None

    async def start(self, bound: Sequence[Multiaddr], now: float) -> None:
        """``bound``: what the node listens on."""
        self._bound = tuple(bound)
        self._looked = now
        self._own = reachable_addresses(self._bound)
        if self.mapping is not None:
            self.mapping.follow(self._own)
        if self._discovery is not None:
            self._lan = self._discovery(self._own)
            await self._lan.start()

    def look(self, now: float) -> tuple[Multiaddr, ...]:
        """The addresses to tell others; call it every second or so."""
        if now >= self._looked + INTERFACES_INTERVAL_S:
            self._looked = now
            # If the system cannot say, as it has no descriptor left, then they are what they were.
            with contextlib.suppress(OSError):
                own = reachable_addresses(self._bound)
                if own != self._own:
                    self._moved(own)
        external = None if self.mapping is None else self.mapping.external
        routers = (*([] if external is None else [external]), *self._transport.public())
        # After the first of this machine's own, so that even a token has room for them.
        told = (*self._own[:1], *self._announced, *routers, *self._own[1:])
        return tuple(dict.fromkeys(told))[:ADDRESSES_MAX]

    def hide(self) -> None:
        """Say nothing more on the LAN, and do not look there: this node is no member any more."""
        self._discovery = None
        self._announce_anew()

    async def close(self) -> None:
        """Take back what was announced and mapped; takes seconds at most."""
        if self._announcing is not None:
            await asyncio.wait({self._announcing})
        if self._lan is not None:
            await self._lan.close()
        if self.mapping is not None:
            await self.mapping.close()

    def _moved(self, own: tuple[Multiaddr, ...]) -> None:
        log.info("this machine's addresses changed: %s", ", ".join(map(str, own)) or "none")
        self._own = own
        self._transport.moved(own)
        if self.mapping is not None:
            self.mapping.follow(own)
        self._announce_anew()

    def _announce_anew(self) -> None:
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.create_task(self._announce())

    async def _announce(self) -> None:
        """Until what is announced is what there is: it may change again meanwhile."""
        announced = None
        while (self._discovery, self._own) != announced:
            announced = self._discovery, self._own
            if self._lan is not None:
                lan, self._lan = self._lan, None
                await lan.close()
            if self._discovery is not None:
                self._lan = self._discovery(self._own)
                await self._lan.start()
