from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import AsyncIterator, Sequence

import pytest

from overlay.identity.multiaddr import Multiaddr
from overlay.limits import PORT_LEASE_S
from overlay.transport import port_mapping
from overlay.transport.gateway import GatewayError, PortTaken
from overlay.transport.port_mapping import PortMapping, find_by_upnp
from tests.overlay.transport.nodes import PATIENCE_S

OWN = (Multiaddr.of("10.0.0.5", 7710), Multiaddr.of("127.0.0.1", 7710))
EXTERNAL = Multiaddr.of("1.2.3.4", 7710)


class Router:
    """Both a router and who finds it: it does what it is asked, unless it is to fail."""

    def __init__(self) -> None:
        self.local_host = "10.0.0.5"
        self.host = "1.2.3.4"
        self.mapped: dict[int, int] = {}
        self.taken: set[int] = set()
        #: For which it is to be asked to map a port.
        self.lease_s: float = PORT_LEASE_S
        self.failure: Exception | None = None
        self.searches = 0
        #: What happened, in order.
        self.log: asyncio.Queue[str] = asyncio.Queue()

    async def find(self, hosts: Sequence[str]) -> Router:
        self.searches += 1
        self.log.put_nowait(f"find from {','.join(hosts)}")
        if self.failure is not None:
            raise self.failure
        return self

    async def external_host(self) -> str:
        return self.host

    async def map(self, external_port: int, port: int, lease_s: int) -> None:
        assert lease_s == self.lease_s
        if self.failure is not None:
            self.log.put_nowait("fail")
            raise self.failure
        if external_port in self.taken:
            raise PortTaken("taken")
        self.mapped[external_port] = port
        self.log.put_nowait(f"map {external_port} to {port}")

    async def unmap(self, external_port: int) -> None:
        self.log.put_nowait(f"unmap {external_port}")
        if self.failure is not None:
            raise self.failure
        self.mapped.pop(external_port, None)

    async def until(self, event: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.log.get() != event:
                pass


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
async def mapping(router: Router) -> AsyncIterator[PortMapping]:
    mapping = PortMapping(random.Random(1), router.find)
    yield mapping
    await mapping.close()


async def settled(mapping: PortMapping) -> None:
    """Wait until it has come to a result."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await asyncio.sleep(0)
            if mapping.external is not None or mapping.failure:
                return


@pytest.fixture
def often(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are short, and so are the pauses after a failure."""
    router.lease_s = 0.03
    monkeypatch.setattr(port_mapping, "PORT_LEASE_S", router.lease_s)
    monkeypatch.setattr(port_mapping, "PORT_RETRY_S", 0.01)


async def test_the_same_port_is_asked_for_and_given_back(
    router: Router, mapping: PortMapping
) -> None:
    mapping.follow(OWN)
    await settled(mapping)
    assert (mapping.external, mapping.failure) == (EXTERNAL, "")
    assert router.mapped == {7710: 7710}
    await mapping.close()
    assert router.mapped == {}
    assert mapping.external is None


async def test_another_port_where_that_one_is_taken(router: Router, mapping: PortMapping) -> None:
    router.taken = {7710}
    mapping.follow(OWN)
    await settled(mapping)
    assert mapping.external is not None
    assert router.mapped == {mapping.external.port: 7710}
    assert mapping.external.port != 7710


async def test_all_ports_are_taken(router: Router, mapping: PortMapping) -> None:
    router.taken = set(range(65536))
    mapping.follow(OWN)
    await settled(mapping)
    assert mapping.failure == "the router's port 7710 is taken, and so are others"
    await mapping.close()
    assert "unmap" not in str(router.log), "nobody else's"


@pytest.mark.usefixtures("often")
async def test_a_lease_is_renewed(router: Router, mapping: PortMapping) -> None:
    router.taken = {7710}
    mapping.follow(OWN)
    await settled(mapping)
    assert mapping.external is not None
    for _ in range(3):
        await router.until(f"map {mapping.external.port} to 7710")
    assert router.searches == 1


@pytest.mark.usefixtures("often")
async def test_a_router_that_fails_is_looked_for_until_it_is_back(
    router: Router, mapping: PortMapping, caplog: pytest.LogCaptureFixture
) -> None:
    mapping.follow(OWN)
    await router.until("map 7710 to 7710")
    with caplog.at_level(logging.WARNING):
        router.failure = GatewayError("it is out of order")
        for _ in range(3):
            await router.until("find from 10.0.0.5")
        assert (mapping.external, mapping.failure) == (None, "it is out of order")
    assert len(caplog.records) == 1, "said once"
    router.failure = None
    await router.until("map 7710 to 7710")
    await settled(mapping)


@pytest.mark.usefixtures("often")
async def test_our_own_bugs_do_not_end_it(router: Router, mapping: PortMapping) -> None:
    router.failure = ZeroDivisionError()
    mapping.follow(OWN)
    await settled(mapping)
    assert "see its log" in mapping.failure
    router.failure = None
    await router.until("map 7710 to 7710")


async def test_it_follows_the_machine_into_another_network(
    router: Router, mapping: PortMapping
) -> None:
    mapping.follow(OWN)
    await router.until("map 7710 to 7710")
    mapping.follow(OWN)
    router.local_host = "10.9.9.9"
    mapping.follow((Multiaddr.of("10.9.9.9", 7710),))
    await router.until("unmap 7710")
    await router.until("find from 10.9.9.9")
    await router.until("map 7710 to 7710")
    assert router.searches == 2


@pytest.mark.parametrize("host", ["192.168.0.2", "127.0.0.1", "0.0.0.0", "239.1.2.3"])
async def test_a_router_behind_another_one_is_of_no_use(
    router: Router, mapping: PortMapping, host: str
) -> None:
    router.host = host
    mapping.follow(OWN)
    await settled(mapping)
    assert f"behind another one: its address there, {host}," in mapping.failure
    assert router.mapped == {}


async def test_a_node_on_loopback_needs_no_router(router: Router, mapping: PortMapping) -> None:
    mapping.follow((OWN[1], Multiaddr.of("2001:db8::1", 7710)))
    await settled(mapping)
    assert "no IPv4 address" in mapping.failure
    assert router.searches == 0


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "async_upnp_client.client", None)
    monkeypatch.delitem(sys.modules, "overlay.transport.upnp", raising=False)
    with pytest.raises(GatewayError, match="pipx inject hearth-mesh async-upnp-client"):
        await find_by_upnp(("10.0.0.5",))


async def test_it_can_be_closed_before_it_began(mapping: PortMapping) -> None:
    await mapping.close()


async def test_a_router_that_cannot_be_made_sense_of_does_not_end_the_asking(
    router: Router, mapping: PortMapping
) -> None:
    mapping.follow(OWN)
    await router.until("map 7710 to 7710")
    router.failure = ValueError("no XML at all")
    mapping.follow([Multiaddr.of("10.0.0.6", 7710)])
    await router.until("unmap 7710")
    await router.until("find from 10.0.0.6")
