"""Members on one LAN find each other by mDNS, without a token's addresses and without a relay.

A node announces an instance of ``_hearth._tcp``, and looks for those of others. Whoever listens on
the LAN learns that a Hearth node is at this machine's port, which they could find by trying; the
rest is sealed (see `overlay.wire.announcement`). The instance and its host have a random name,
fresh at every start, and no address records: members read the addresses from the sealed part.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from zeroconf import (
    DNSQuestionType,
    Error,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from overlay.errors import Malformed
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.wire.announcement import ANNOUNCEMENT_NONCE_BYTES, Announcement, seal, unseal

log = logging.getLogger(__name__)

SERVICE_TYPE = "_hearth._tcp.local."
#: A part of a name between two dots.
_LABEL_BYTES_MAX: Final = 63
#: The key of the sealed announcement in the TXT record.
SEALED = b"p"


class _Unwritable(RecordUpdateListener):
    """Has zeroconf forget names that are no UTF-8, and longer as text than they were.

    It tells what it knows in each of its questions. It fails to write these, and asks no more.
    """

    def __init__(self, zeroconf: Zeroconf) -> None:
        self._cache = zeroconf.cache
        self._found: list[Any] = []

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        for update in records:
            alias = getattr(update.new, "alias", "")  # Only pointers have one.
            if any(len(label.encode()) > _LABEL_BYTES_MAX for label in alias.split(".")):
                self._found.append(update.new)

    def async_update_records_complete(self) -> None:
        """They are in the cache now."""
        self._cache.async_remove_records(self._found)
        self._found = []


class LanDiscovery:
    """Announces ``me`` at ``addresses`` to the members of one mesh and calls ``found`` for each.

    ``found`` may be called again for a peer: when it starts anew, or announces other addresses.
    It is called on the loop that runs `start`; all methods belong to that loop.

    It speaks only on the interfaces of ``addresses`` (IP addresses of this machine), loopback left
    out: a node that listens on loopback alone is of no use to others, and stays silent.
    ``interfaces`` names others, loopback too.
    """

    def __init__(
        self,
        mesh_secret: bytes,
        me: PeerId,
        addresses: Sequence[Multiaddr],
        found: Callable[[PeerId, Sequence[Multiaddr]], None],
        *,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        self._mesh_secret = mesh_secret
        self._me = me
        self._found = found
        if interfaces is None:
            addresses = [a for a in addresses if not a.is_loopback]
            interfaces = [a.host for a in addresses]
        self._addresses = tuple(addresses)
        self._interfaces = list(dict.fromkeys(interfaces))
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._announcing: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Begin to announce and to look. Where multicast is impossible, warn and do nothing."""
        if not self._addresses:
            log.debug("not looking for members on the LAN: this node listens on loopback only")
            return
        try:
            # Interfaces that cannot do multicast are left out.
            self._zeroconf = AsyncZeroconf(interfaces=self._interfaces)
            await self._announce(self._zeroconf.zeroconf)
        except (OSError, RuntimeError, Error) as error:
            log.warning("members on this LAN will not be found: %s", error)
            await self.close()

    async def close(self) -> None:
        """Take the announcement back and stop; ``found`` is called no more. Idempotent."""
        if self._announcing is not None:
            # Or one of its repetitions might follow the goodbye.
            self._announcing.cancel()
            await asyncio.wait({self._announcing})
            self._announcing = None
        if self._browser is not None:
            await self._browser.async_cancel()
            self._browser = None
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            await zeroconf.async_close()

    async def _announce(self, zeroconf: Zeroconf) -> None:
        await zeroconf.async_wait_for_start()
        if not zeroconf.engine.senders:
            raise OSError("no network interface can do multicast")
        zeroconf.async_add_listener(_Unwritable(zeroconf), None)
        self._browser = AsyncServiceBrowser(
            zeroconf,
            SERVICE_TYPE,
            handlers=[self._changed],
            # Answers to all: one to us alone may end at another program that shares the port.
            question_type=DNSQuestionType.QM,
        )
        # The name is random, so nobody need be asked whether it is taken.
        announced = await zeroconf.async_register_service(
            self._service(), cooperating_responders=True
        )
        self._announcing = asyncio.ensure_future(announced)

    def _service(self) -> ServiceInfo:
        announcement = Announcement(self._me, self._addresses)
        nonce = secrets.token_bytes(ANNOUNCEMENT_NONCE_BYTES)
        name = secrets.token_hex(8)
        return ServiceInfo(
            SERVICE_TYPE,
            f"{name}.{SERVICE_TYPE}",
            port=self._addresses[0].port,
            properties={SEALED: seal(self._mesh_secret, announcement, nonce)},
            server=f"{name}.local.",
        )

    def _changed(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        """An instance, or a record of one, came or went. What is not for us is ignored."""
        if state_change is ServiceStateChange.Removed:
            return
        try:
            # Announcements come in one packet, which is in the cache by now; should one be torn
            # apart on its way, this is called again when the TXT record comes.
            info = AsyncServiceInfo(service_type, name)
            info.load_from_cache(zeroconf)
            announcement = unseal(self._mesh_secret, info.properties.get(SEALED) or b"")
        except (Malformed, Error) as error:
            log.debug("ignored %r on the LAN: %s", name, error)
            return
        if announcement is not None and announcement.peer != self._me:
            log.debug("%s announces itself on the LAN", announcement.peer)
            self._found(announcement.peer, announcement.addresses)
