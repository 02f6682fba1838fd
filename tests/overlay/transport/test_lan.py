"""Finding members by mDNS, over multicast on the loopback interface."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest
from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf._protocol.outgoing import DNSOutgoing
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.transport.lan import SEALED, SERVICE_TYPE, LanDiscovery
from overlay.wire.announcement import ANNOUNCEMENT_NONCE_BYTES, Announcement, seal
from tests.overlay.transport.nodes import PATIENCE_S

pytestmark = pytest.mark.usefixtures("multicast_on_loopback")

LOOPBACK = ["127.0.0.1"]
ADDRESSES = (Multiaddr("ip4", "127.0.0.1", 7710), Multiaddr("ip6", "2001:db8::7", 7711))


class Member:
    """A node with nothing but discovery."""

    def __init__(
        self,
        mesh_secret: bytes,
        addresses: Sequence[Multiaddr] = ADDRESSES,
        interfaces: list[str] | None = LOOPBACK,
    ) -> None:
        self.peer_id = NodeKey.from_seed(secrets.token_bytes(32)).peer_id
        self.finds: list[tuple[PeerId, tuple[Multiaddr, ...]]] = []
        self._news = asyncio.Event()
        self.discovery = LanDiscovery(
            mesh_secret, self.peer_id, addresses, self._found, interfaces=interfaces
        )

    def _found(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        self.finds.append((peer, tuple(addresses)))
        self._news.set()

    def peers(self) -> set[PeerId]:
        return {peer for peer, _ in self.finds}

    async def until_found(self, *others: Member) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not {other.peer_id for other in others} <= self.peers():
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def started(stack: AsyncExitStack, member: Member) -> Member:
    await member.discovery.start()
    stack.push_async_callback(member.discovery.close)
    return member


@pytest.fixture
async def outsider(stack: AsyncExitStack) -> AsyncZeroconf:
    """Another program on the LAN."""
    zeroconf = AsyncZeroconf(interfaces=LOOPBACK)
    stack.push_async_callback(zeroconf.async_close)
    return zeroconf


async def announce(outsider: AsyncZeroconf, text: dict[bytes, bytes] | bytes) -> None:
    name = secrets.token_hex(8)
    service = ServiceInfo(
        SERVICE_TYPE, f"{name}.{SERVICE_TYPE}", 7710, properties=text, server=f"{name}.local."
    )
    await outsider.async_register_service(service, cooperating_responders=True)


async def test_members_find_each_other_and_nobody_else(stack: AsyncExitStack) -> None:
    ours, theirs = secrets.token_bytes(32), secrets.token_bytes(32)
    stranger = await started(stack, Member(theirs))
    one = await started(stack, Member(ours))
    two = await started(stack, Member(ours))
    await one.until_found(two)
    await two.until_found(one)
    # What comes last shows that all before it has been heard.
    friend_of_stranger = await started(stack, Member(theirs))
    await stranger.until_found(friend_of_stranger)
    await friend_of_stranger.until_found(stranger)
    assert set(one.finds) == {(two.peer_id, ADDRESSES)}
    assert set(two.finds) == {(one.peer_id, ADDRESSES)}
    assert stranger.peers() == {friend_of_stranger.peer_id}
    assert friend_of_stranger.peers() == {stranger.peer_id}


async def test_a_name_that_cannot_be_written_again_does_not_end_the_search(
    stack: AsyncExitStack,
) -> None:
    """Anybody on the LAN can announce one. zeroconf repeats in its questions what it knows."""
    secret = secrets.token_bytes(32)
    one = await started(stack, Member(secret))
    service = b"".join(
        bytes([len(label)]) + label for label in (b"_hearth", b"_tcp", b"local", b"")
    )
    name = b"\x3f" + b"\xff" * 63 + service
    record = service + struct.pack(">HHIH", 12, 1, 4500, len(name)) + name
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outsider:
        outsider.setsockopt(
            socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1")
        )
        response = struct.pack(">HHHHHH", 0, 0x8400, 0, 1, 0, 0) + record
        outsider.sendto(response, ("224.0.0.251", 5353))
    await one.until_found(await started(stack, Member(secret)))
    assert one.discovery._zeroconf is not None
    question = DNSOutgoing(0)
    for known in one.discovery._zeroconf.zeroconf.cache.get_all_by_details(SERVICE_TYPE, 12, 1):
        question.add_answer_at_time(known, 0)
    assert question.packets()


async def test_who_comes_late_asks(stack: AsyncExitStack) -> None:
    """The answer reaches all programs on a machine, though they share the port of mDNS."""
    secret = secrets.token_bytes(32)
    early = [await started(stack, Member(secret)) for _ in range(3)]
    for member in early:
        announcing = member.discovery._announcing
        assert announcing is not None
        await announcing
    late = await started(stack, Member(secret))
    await late.until_found(*early)


async def test_a_node_that_starts_anew_is_found_again(stack: AsyncExitStack) -> None:
    secret = secrets.token_bytes(32)
    one = await started(stack, Member(secret))
    two = Member(secret)
    await two.discovery.start()
    await one.until_found(two)
    await two.discovery.close()
    one.finds.clear()
    await two.discovery.start()
    stack.push_async_callback(two.discovery.close)
    await one.until_found(two)


async def test_a_closed_discovery_finds_nobody(stack: AsyncExitStack) -> None:
    secret = secrets.token_bytes(32)
    closed = Member(secret)
    await closed.discovery.start()
    await closed.discovery.close()
    await closed.discovery.close()
    one = await started(stack, Member(secret))
    two = await started(stack, Member(secret))
    await one.until_found(two)
    assert one.peers() == {two.peer_id}
    assert not closed.finds


async def test_nonsense_on_the_lan_is_ignored(
    stack: AsyncExitStack, outsider: AsyncZeroconf
) -> None:
    secret = secrets.token_bytes(32)
    one = await started(stack, Member(secret))
    nonce = secrets.token_bytes(ANNOUNCEMENT_NONCE_BYTES)
    no_addresses = seal(secret, Announcement(one.peer_id, ()), nonce)
    await announce(outsider, {SEALED: b""})
    await announce(outsider, {SEALED: secrets.token_bytes(200)})
    await announce(outsider, {SEALED: no_addresses})
    await announce(outsider, {b"other": b"key"})
    await announce(outsider, b"\xff\x00a text record that ends too early")
    two = await started(stack, Member(secret))
    await one.until_found(two)
    await two.until_found(one)
    assert one.peers() == {two.peer_id}
    assert two.peers() == {one.peer_id}


async def test_outsiders_see_neither_who_nor_where(
    stack: AsyncExitStack, outsider: AsyncZeroconf
) -> None:
    seen: asyncio.Queue[AsyncServiceInfo] = asyncio.Queue()

    def changed(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        info = AsyncServiceInfo(service_type, name)
        info.load_from_cache(zeroconf)
        seen.put_nowait(info)

    browser = AsyncServiceBrowser(outsider.zeroconf, SERVICE_TYPE, handlers=[changed])
    stack.push_async_callback(browser.async_cancel)
    secret = secrets.token_bytes(32)
    member = await started(stack, Member(secret))
    async with asyncio.timeout(PATIENCE_S):
        info = await seen.get()
    assert info.port == ADDRESSES[0].port
    assert info.parsed_addresses() == []
    assert set(info.properties) == {SEALED}
    assert info.server is not None
    shown = info.text + f"{info.name} {info.server}".encode()
    for hidden in (bytes(member.peer_id), secret, *(address.pack()[:-2] for address in ADDRESSES)):
        assert hidden not in shown
    assert socket.gethostname().encode() not in shown
    assert str(member.peer_id).encode() not in shown


async def test_a_node_on_loopback_alone_stays_silent(stack: AsyncExitStack) -> None:
    secret = secrets.token_bytes(32)
    one = await started(stack, Member(secret))
    silent = await started(stack, Member(secret, ADDRESSES[:1], interfaces=None))
    two = await started(stack, Member(secret))
    await one.until_found(two)
    assert one.peers() == {two.peer_id}
    assert not silent.finds


async def test_loopback_addresses_are_not_announced(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second address is no loopback one; only that is announced, and only there."""
    asked: list[list[str]] = []

    def on_loopback(interfaces: list[str]) -> AsyncZeroconf:
        asked.append(interfaces)
        return AsyncZeroconf(interfaces=LOOPBACK)

    secret = secrets.token_bytes(32)
    one = await started(stack, Member(secret))
    monkeypatch.setattr("overlay.transport.lan.AsyncZeroconf", on_loopback)
    two = await started(stack, Member(secret, interfaces=None))
    await one.until_found(two)
    assert set(one.finds) == {(two.peer_id, ADDRESSES[1:])}
    assert asked == [["2001:db8::7"]]


async def test_without_multicast_a_node_warns_once_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An address that no interface here has stands for a machine without a network."""
    member = Member(secrets.token_bytes(32), interfaces=["192.0.2.199"])
    with caplog.at_level(logging.WARNING, logger="overlay.transport.lan"):
        await member.discovery.start()
        await member.discovery.close()
    warnings = [r.getMessage() for r in caplog.records if r.name == "overlay.transport.lan"]
    assert len(warnings) == 1
    assert "members on this LAN will not be found" in warnings[0]
