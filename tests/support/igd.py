"""A router of the tests' own: UPnP's Internet Gateway Device, on loopback, over real sockets.

It answers a search (SSDP), describes itself, and does what SOAP asks of it, or refuses.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, cast

_ARGUMENTS: Final = {
    "GetExternalIPAddress": ((), ("NewExternalIPAddress",)),
    "AddPortMapping": (
        (
            *("NewRemoteHost", "NewExternalPort", "NewProtocol", "NewInternalPort"),
            *("NewInternalClient", "NewEnabled", "NewPortMappingDescription", "NewLeaseDuration"),
        ),
        (),
    ),
    "DeletePortMapping": (("NewRemoteHost", "NewExternalPort", "NewProtocol"), ()),
}
_TYPES: Final = {
    "NewExternalPort": "ui2",
    "NewInternalPort": "ui2",
    "NewEnabled": "boolean",
    "NewLeaseDuration": "ui4",
}
_SERVICE: Final = "urn:schemas-upnp-org:service:WANIPConnection:1"


@dataclass
class Router:
    """``mappings``: of external ports, to (host, port, lease in seconds)."""

    external_host: str = "203.0.113.9"
    mappings: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    #: Ports that other machines have.
    taken: set[int] = field(default_factory=set)
    #: It does not know leases.
    permanent_only: bool = False
    #: Its answers to all SOAP requests, instead of the right ones: an HTTP status and a body.
    answer: tuple[int, str] | None = None
    #: What its description is, instead of the right one.
    description: str | None = None
    #: Where it says that its description is, instead of the right place.
    location: str | None = None
    #: Names of the actions it was asked for.
    asked: list[str] = field(default_factory=list)
    #: Where to search for it.
    searched: tuple[str, int] = ("127.0.0.1", 0)
    #: Where it answers HTTP.
    url: str = ""
    #: Paths that were asked for.
    requests: list[str] = field(default_factory=list)

    def searched_for(self, message: bytes) -> bytes | None:
        """Its answer to a datagram."""
        wanted = re.search(rb"^ST: *(\S+)", message, re.MULTILINE | re.IGNORECASE)
        if not message.startswith(b"M-SEARCH") or wanted is None:
            return None
        device = wanted[1].decode()
        if device != "urn:schemas-upnp-org:device:InternetGatewayDevice:1":
            return None
        location = self.location or f"{self.url}/description.xml"
        return (
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n"
            f"ST: {device}\r\nUSN: uuid:1::{device}\r\nLOCATION: {location}\r\n\r\n"
        ).encode()

    def answered(self, path: str, action: str, body: str) -> tuple[int, str]:
        """Its answer to an HTTP request: a status and a body."""
        self.requests.append(path)
        if path == "/description.xml":
            return 200, self.description or description()
        if path == "/service.xml":
            return 200, _service_description()
        self.asked.append(action)
        if self.answer is not None:
            return self.answer
        words = dict(re.findall(r"<(New\w+)>([^<]*)</", body))
        if action == "GetExternalIPAddress":
            return _done(
                action, f"<NewExternalIPAddress>{self.external_host}</NewExternalIPAddress>"
            )
        port = int(words["NewExternalPort"])
        if action == "DeletePortMapping":
            return _done(action) if self.mappings.pop(port, None) else refused(714, "NoSuchEntry")
        lease_s = int(words["NewLeaseDuration"])
        if self.permanent_only and lease_s:
            return refused(725, "OnlyPermanentLeasesSupported")
        if port in self.taken:
            return refused(718, "ConflictInMappingEntry")
        assert words["NewProtocol"] == "TCP"
        assert words["NewRemoteHost"] == ""
        internal = words["NewInternalClient"], int(words["NewInternalPort"])
        self.mappings[port] = (*internal, lease_s)
        return _done(action)


@asynccontextmanager
async def running(router: Router) -> AsyncIterator[Router]:
    """The router, answering."""

    class Search(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            # Not by its class in Python 3.11.
            self._transport = cast(asyncio.DatagramTransport, transport)

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            answer = router.searched_for(data)
            if answer is not None:
                self._transport.sendto(answer, addr)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"^content-length: *(\d+)", head, re.MULTILINE | re.IGNORECASE)
        body = (await reader.readexactly(int(length[1]))).decode() if length else ""
        action = re.search(r'^soapaction: *"[^"#]*#(\w+)"', head, re.MULTILINE | re.IGNORECASE)
        status, text = router.answered(head.split()[1], action[1] if action else "", body)
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(text.encode())}\r\n"
            f"Content-Type: text/xml\r\nConnection: close\r\n\r\n{text}".encode()
        )
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    router.url = f"http://{host}:{port}"
    loop = asyncio.get_running_loop()
    search, _ = await loop.create_datagram_endpoint(Search, local_addr=("127.0.0.1", 0))
    router.searched = search.get_extra_info("sockname")
    try:
        yield router
    finally:
        search.close()
        server.close()


def refused(code: int, what: str) -> tuple[int, str]:
    """The answer to a request that is not carried out."""
    error = (
        '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0">'
        f"<errorCode>{code}</errorCode><errorDescription>{what}</errorDescription></UPnPError>"
    )
    fault = (
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring>"
        f"<detail>{error}</detail></s:Fault>"
    )
    return 500, _envelope(fault)


def _done(action: str, inner: str = "") -> tuple[int, str]:
    return 200, _envelope(f'<u:{action}Response xmlns:u="{_SERVICE}">{inner}</u:{action}Response>')


def _envelope(body: str) -> str:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
        f"<s:Body>{body}</s:Body></s:Envelope>"
    )


def description(elsewhere: str = "") -> str:
    """What it says of itself; ``elsewhere``: the URL at which its service is said to be."""
    service = (
        f"<service><serviceType>{_SERVICE}</serviceType>"
        f"<serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><SCPDURL>{elsewhere}/service.xml</SCPDURL>"
        f"<controlURL>{elsewhere}/control</controlURL><eventSubURL>/events</eventSubURL></service>"
    )
    inner = f"<serviceList>{service}</serviceList>"
    for kind in ("WANConnectionDevice", "WANDevice", "InternetGatewayDevice"):
        device = (
            f"<device><deviceType>urn:schemas-upnp-org:device:{kind}:1</deviceType>"
            f"<friendlyName>{kind}</friendlyName><UDN>uuid:{kind}</UDN>{inner}</device>"
        )
        inner = f"<deviceList>{device}</deviceList>"
    return f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">{device}</root>'


def _service_description() -> str:
    actions, variables = "", ""
    for action, (given, returned) in _ARGUMENTS.items():
        arguments = "".join(
            f"<argument><name>{name}</name><direction>{direction}</direction>"
            f"<relatedStateVariable>{name}</relatedStateVariable></argument>"
            for direction, names in (("in", given), ("out", returned))
            for name in names
        )
        actions += f"<action><name>{action}</name><argumentList>{arguments}</argumentList></action>"
    for name in {name for pair in _ARGUMENTS.values() for names in pair for name in names}:
        kind = _TYPES.get(name, "string")
        variables += (
            f'<stateVariable sendEvents="no"><name>{name}</name><dataType>{kind}</dataType>'
            "</stateVariable>"
        )
    return (
        '<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0">'
        f"<actionList>{actions}</actionList>"
        f"<serviceStateTable>{variables}</serviceStateTable></scpd>"
    )
