"""Routers that are asked by UPnP: an Internet Gateway Device, versions 1 and 2.

A search by multicast (SSDP) finds it, a description says what it can do, and SOAP over HTTP asks
for it. Needs the package async-upnp-client. Whatever answers on the network is a stranger: its
answers are bounded, and it is asked at no other host than the one that it answered from.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from async_upnp_client.client import UpnpRequester, UpnpService
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.const import HttpRequest, HttpResponse
from async_upnp_client.exceptions import UpnpActionError, UpnpConnectionError, UpnpError
from async_upnp_client.search import SsdpSearchListener

from overlay.limits import GATEWAY_ANSWER_BYTES_MAX, GATEWAY_ANSWER_S
from overlay.transport.gateway import GatewayError, PortTaken

log = logging.getLogger(__name__)

_DEVICES: Final = tuple(
    f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (1, 2)
)
#: What connects a router to its far side, by Ethernet or cable, and by DSL.
_SERVICES: Final = ("WANIPConnection:1", "WANIPConnection:2", "WANPPPConnection:1")
#: Where SSDP listens on a LAN.
SSDP: Final = ("239.255.255.250", 1900)
#: Answers to a search that wait to be looked at.
_ANSWERS_MAX: Final = 16
#: Characters of a router's own words that people get to see.
_WORDS_CHARS_MAX: Final = 100
_NONE: Final[Mapping[str, Any]] = {}
#: Error codes of AddPortMapping.
_CONFLICT: Final = 718
_PERMANENT_ONLY: Final = 725


async def find_gateway(hosts: Sequence[str], searched: tuple[str, int] = SSDP) -> UpnpGateway:
    """The first router that answers on the networks of ``hosts``, addresses of this machine.

    ``searched`` is asked instead of all. Raises GatewayError.
    """
    seen = set()
    failure = "no router answers: it has no UPnP, or it is turned off in the router's settings"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * GATEWAY_ANSWER_S), _search(hosts, searched) as found:
            while True:
                host, location = await found.get()
                if location in seen:
                    continue
                seen.add(location)
                try:
                    return UpnpGateway(host, await _service(location))
                except GatewayError as error:
                    log.debug("no router of use at %s: %s", location, error)
                    failure = str(error)
    raise GatewayError(failure)


class UpnpGateway:
    """A `Gateway`."""

    def __init__(self, local_host: str, service: UpnpService) -> None:
        self.local_host = local_host
        self._service = service

    async def external_host(self) -> str:
        answer = await self._call("GetExternalIPAddress")
        try:
            return str(ipaddress.IPv4Address(answer.get("NewExternalIPAddress")))
        except ValueError:
            raise GatewayError("the router has no address on its far side: is it online?") from None

    async def map(self, external_port: int, port: int, lease_s: int) -> None:
        wanted = {
            "NewRemoteHost": "",
            "NewExternalPort": external_port,
            "NewProtocol": "TCP",
            "NewInternalPort": port,
            "NewInternalClient": self.local_host,
            "NewEnabled": True,
            "NewPortMappingDescription": "Hearth",
        }
        try:
            await self._call("AddPortMapping", {**wanted, "NewLeaseDuration": lease_s})
        except _Refused as error:
            if error.code == _CONFLICT:
                raise PortTaken(f"the router's port {external_port} is taken") from None
            if error.code != _PERMANENT_ONLY:
                raise
            await self._call("AddPortMapping", {**wanted, "NewLeaseDuration": 0})

    async def unmap(self, external_port: int) -> None:
        port = {"NewRemoteHost": "", "NewExternalPort": external_port, "NewProtocol": "TCP"}
        await self._call("DeletePortMapping", port)

    async def _call(self, name: str, arguments: Mapping[str, Any] = _NONE) -> Mapping[str, Any]:
        if not self._service.has_action(name):
            raise GatewayError(f"the router cannot do {name}")
        with _told():
            return await self._service.action(name).async_call(**arguments)


class _Refused(GatewayError):
    def __init__(self, message: str, code: int | None) -> None:
        super().__init__(message)
        self.code = code


class _Requester(UpnpRequester):
    def __init__(self, host: str) -> None:
        self._host = host

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        if urlsplit(http_request.url).hostname != self._host:
            raise UpnpError(message="it points elsewhere")
        body = bytearray()
        try:
            async with (
                asyncio.timeout(GATEWAY_ANSWER_S),
                httpx.AsyncClient(trust_env=False) as client,
                client.stream(
                    http_request.method,
                    http_request.url,
                    headers={**http_request.headers, "Accept-Encoding": "identity"},
                    content=http_request.body,
                ) as response,
            ):
                # As it comes: a little that is compressed may be more than there is memory.
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > GATEWAY_ANSWER_BYTES_MAX:
                        raise UpnpError(message="its answer is too long")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise UpnpConnectionError(message=str(error) or type(error).__name__) from None
        text = body.decode("utf-8", "replace")
        return HttpResponse(response.status_code, response.headers, text)


@asynccontextmanager
async def _search(
    hosts: Sequence[str], searched: tuple[str, int]
) -> AsyncIterator[asyncio.Queue[tuple[str, str]]]:
    """Who answers: the host of this machine that it answers to, and where its description is."""
    found: asyncio.Queue[tuple[str, str]] = asyncio.Queue(_ANSWERS_MAX)

    def heard(host: str, headers: Mapping[str, Any]) -> None:
        location = str(headers.get("location", ""))
        with contextlib.suppress(ValueError, asyncio.QueueFull):
            if urlsplit(location).hostname == headers.get("_host"):
                found.put_nowait((host, location))

    listeners = [
        SsdpSearchListener(
            callback=partial(heard, host),
            source=(host, 0),
            target=searched,
            timeout=1,
            search_target=device,
        )
        for host in hosts
        for device in _DEVICES
    ]
    asking = asyncio.create_task(_ask(listeners))
    try:
        yield found
    finally:
        asking.cancel()
        await asyncio.wait({asking})
        for listener in listeners:
            listener.async_stop()


async def _ask(listeners: Sequence[SsdpSearchListener]) -> None:
    able = []
    for listener in listeners:
        try:
            await listener.async_start()
            able.append(listener)
        except OSError as error:
            log.debug("cannot look for a router from %s: %s", listener.source[0], error)
    # Datagrams get lost.
    while True:
        for listener in able:
            listener.async_search()
        await asyncio.sleep(1.0)


async def _service(location: str) -> UpnpService:
    requester = _Requester(urlsplit(location).hostname or "")
    with _told():
        device = await UpnpFactory(requester, non_strict=True).async_create_device(location)
    kinds = [f"urn:schemas-upnp-org:service:{service}" for service in _SERVICES]
    for service in device.all_services:
        if service.service_type in kinds and service.has_action("AddPortMapping"):
            return service
    raise GatewayError("the router does not let programs have ports passed on")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Within, what the library raises for a router's answer becomes a GatewayError."""
    try:
        yield
    except UpnpActionError as error:
        what = error.error_desc or f"error {error.error_code}"
        raise _Refused(f"the router refuses: {what[:_WORDS_CHARS_MAX]}", error.error_code) from None
    except UpnpConnectionError as error:
        raise GatewayError(f"the router does not answer: {str(error)[:_WORDS_CHARS_MAX]}") from None
    except (UpnpError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.debug("a router's answer makes no sense", exc_info=error)
        raise GatewayError("the router's answers make no sense") from None
