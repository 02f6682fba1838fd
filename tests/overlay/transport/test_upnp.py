"""Against a router of the tests' own; `tests/e2e/test_nat.py` has a real one."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from async_upnp_client.const import HttpRequest

from overlay.limits import GATEWAY_ANSWER_BYTES_MAX
from overlay.transport import upnp
from overlay.transport.gateway import GatewayError, PortTaken
from overlay.transport.upnp import UpnpGateway, find_gateway
from tests.support import igd
from tests.support.igd import Router, refused, running

HOSTS = ("127.0.0.1",)


async def found(router: Router) -> UpnpGateway:
    return await find_gateway(HOSTS, router.searched)


async def test_a_port_is_passed_on_and_no_more() -> None:
    async with running(Router()) as router:
        gateway = await found(router)
        assert gateway.local_host == "127.0.0.1"
        assert await gateway.external_host() == "203.0.113.9"
        await gateway.map(7710, 7711, 600)
        assert router.mappings == {7710: ("127.0.0.1", 7711, 600)}
        await gateway.unmap(7710)
        assert router.mappings == {}
        with pytest.raises(GatewayError, match="refuses: NoSuchEntry"):
            await gateway.unmap(7710)


async def test_a_router_without_leases_is_asked_for_good() -> None:
    async with running(Router(permanent_only=True)) as router:
        await (await found(router)).map(7710, 7710, 600)
        assert router.mappings == {7710: ("127.0.0.1", 7710, 0)}


async def test_a_port_of_another_machine_is_taken() -> None:
    async with running(Router(taken={7710})) as router:
        with pytest.raises(PortTaken, match="7710"):
            await (await found(router)).map(7710, 7710, 600)


async def test_a_refusal_is_told_in_the_routers_words() -> None:
    async with running(Router(answer=refused(606, "Action not authorized" + "!" * 999))) as router:
        with pytest.raises(GatewayError, match=r"refuses: Action not authorized!{79}$"):
            await (await found(router)).map(7710, 7710, 600)


@pytest.mark.parametrize("address", ["", "0.0.0.0.0", "example.org"])
async def test_a_router_that_is_offline_has_no_address(address: str) -> None:
    async with running(Router(external_host=address)) as router:
        with pytest.raises(GatewayError, match="online"):
            await (await found(router)).external_host()


@pytest.mark.parametrize(
    "answer",
    [
        (200, ""),
        (200, "\0"),
        (200, "<a/>"),
        (500, "<a/>"),
        (404, "not found"),
        (302, ""),
        (200, "x" * (GATEWAY_ANSWER_BYTES_MAX + 1)),
        (200, '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
    ],
    ids=["empty", "zero", "other", "fault", "missing", "elsewhere", "long", "entity"],
)
async def test_a_router_that_talks_nonsense_fails(answer: tuple[int, str]) -> None:
    async with running(Router()) as router:
        gateway = await found(router)
        router.answer = answer
        for call in (gateway.external_host(), gateway.map(1, 1, 1), gateway.unmap(1)):
            with pytest.raises(GatewayError):
                await call


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router has to answer soon."""
    monkeypatch.setattr(upnp, "GATEWAY_ANSWER_S", 0.2)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "router",
    [
        Router(description="<a/>"),
        Router(description="nothing"),
        Router(description='<root xmlns="urn:schemas-upnp-org:device-1-0"><device/></root>'),
        Router(location="http://127.0.0.1:1/"),
        Router(location="http://192.0.2.1/description.xml"),
        Router(location="file:///etc/passwd"),
        Router(location="http://[::"),
    ],
    ids=["other", "no XML", "empty", "closed", "other host", "file", "malformed"],
)
async def test_what_is_no_router_is_not_found(router: Router) -> None:
    async with running(router):
        with pytest.raises(GatewayError):
            await found(router)


@pytest.mark.usefixtures("hurried")
async def test_a_router_is_asked_nowhere_else() -> None:
    """Or a stranger on the network could have this node ask any other machine, or itself."""
    async with running(Router()) as router, running(Router()) as other:
        router.description = igd.description(other.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(GatewayError):
            await found(router)
        assert other.requests == []


async def test_what_is_compressed_is_not_unpacked() -> None:
    """Half a megabyte of it may be half a gigabyte."""
    packed = gzip.compress(bytes(100_000))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
        writer.write(head.encode() + packed)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        asked = HttpRequest("GET", f"http://127.0.0.1:{port}/description.xml", {}, None)
        answered = await upnp._Requester("127.0.0.1").async_http_request(asked)
    assert answered.body is not None
    assert len(answered.body) <= len(packed)


@pytest.mark.usefixtures("hurried")
async def test_no_router_answers() -> None:
    async with running(Router()) as router:
        nowhere = router.searched
    for hosts in ((), HOSTS, ("192.0.2.1",)):
        with pytest.raises(GatewayError, match="no router answers"):
            await find_gateway(hosts, nowhere)
