"""Addresses of nodes: libp2p's multiaddr as far as Hearth dials it, ``/ip4/192.0.2.7/tcp/7710``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

from overlay.errors import ConfigError, Malformed
from overlay.limits import ADDRESSES_MAX, MEMBERS_MAX

#: Protocol codes of the multicodec table; one byte each, so they also serve in tokens.
_CODES = {"ip4": 4, "ip6": 41, "dns": 53, "dns4": 54, "dns6": 55}
_FAMILIES = {code: family for family, code in _CODES.items()}

#: RFC 1123 host names; an underscore is met in home networks. The last label is no number, or
#: a mistyped IP address would pass for a name.
_HOST_NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*(?!\d+\.?$)[A-Za-z0-9_-]{1,63}\.?")
_HOST_NAME_CHARS_MAX = 253


@dataclass(frozen=True, slots=True, order=True)
class Multiaddr:
    """A TCP address: ``family`` is ip4, ip6, dns, dns4 or dns6; port 0 means any, to listen on.

    ``host`` is in its canonical form. Raises Malformed when the parts do not fit together.
    """

    family: str
    host: str
    port: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _canonical_host(self.family, self.host))
        if not 0 <= self.port <= 65535:
            raise Malformed(f"{self.port} is not a port: ports go from 0 to 65535")

    @classmethod
    def of(cls, host: str, port: int) -> Multiaddr:
        """The address of a host given as an IP address or a name. Raises Malformed."""
        try:
            address = ip_address(host)
        except ValueError:
            return cls("dns", host, port)
        return cls(f"ip{address.version}", host, port)

    @classmethod
    def parse(cls, text: str) -> Multiaddr:
        """Read ``/family/host/tcp/port``. Raises Malformed."""
        return _parsed(text)

    def __str__(self) -> str:
        return f"/{self.family}/{self.host}/tcp/{self.port}"

    @property
    def endpoint(self) -> str:
        """ZeroMQ's form: ``tcp://192.0.2.7:7710``, ``tcp://[2001:db8::7]:7710``."""
        host = f"[{self.host}]" if self.family == "ip6" else self.host
        return f"tcp://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it leads back to whoever dials it; of a name nobody knows before."""
        return self.family in ("ip4", "ip6") and ip_address(self.host).is_loopback

    def pack(self) -> bytes:
        """The compact form for tokens: code, host, port; 7 bytes for IPv4."""
        if self.family == "ip4":
            host = IPv4Address(self.host).packed
        elif self.family == "ip6":
            host = IPv6Address(self.host).packed
        else:
            name = self.host.encode("ascii")
            host = bytes([len(name)]) + name
        return bytes([_CODES[self.family]]) + host + self.port.to_bytes(2, "big")

    @classmethod
    def unpack_from(cls, data: bytes, offset: int = 0) -> tuple[Multiaddr, int]:
        """Read one packed address; returns it and the offset behind it. Raises Malformed."""
        try:
            family = _FAMILIES.get(data[offset], "")
            offset += 1
            if family in ("ip4", "ip6"):
                length = 4 if family == "ip4" else 16
            else:
                length = data[offset]
                offset += 1
        except IndexError:
            raise Malformed("a packed address is cut short") from None
        host, port = data[offset : offset + length], data[offset + length : offset + length + 2]
        if len(host) < length or len(port) < 2:
            raise Malformed("a packed address is cut short")
        return (
            cls(family, _host_text(family, host), int.from_bytes(port, "big")),
            offset + length + 2,
        )


@lru_cache(ADDRESSES_MAX * MEMBERS_MAX)
def _parsed(text: str) -> Multiaddr:
    """As `Multiaddr.parse`: members' addresses are read again and again, and seldom change."""
    parts = text.split("/")
    if len(parts) != 5 or parts[0] or parts[3] != "tcp":
        raise Malformed(f"{text[:80]!r} is not an address like /ip4/192.0.2.7/tcp/7710")
    return Multiaddr(parts[1], parts[2], _port(parts[4]))


def readable_addresses(texts: Iterable[str]) -> tuple[Multiaddr, ...]:
    """The addresses that can be read; a newer node may have kinds that we do not know."""
    found = []
    for text in texts:
        with contextlib.suppress(Malformed):
            found.append(Multiaddr.parse(text))
    return tuple(found)


def parse_listen(text: str) -> Multiaddr:
    """Where to listen: ``127.0.0.1:7710``, ``[::1]:7710``, ``:7710`` (everywhere) or a multiaddr.

    Raises ConfigError.
    """
    try:
        address = _parse(text, {"": "0.0.0.0", "localhost": "127.0.0.1"})
    except Malformed as error:
        raise ConfigError(
            f"cannot listen on {text[:80]!r} ({error}): give ADDRESS:PORT, as in 127.0.0.1:7710"
        ) from None
    if address.family not in ("ip4", "ip6"):
        raise ConfigError(
            f"cannot listen on {text[:80]!r}: give an IP address of this machine, not a name"
        )
    return address


def parse_announced(text: str) -> Multiaddr:
    """Where others are to dial: ``home.example.org:7710``, an IP address so, or a multiaddr.

    Raises ConfigError.
    """
    try:
        address = _parse(text, {})
        if address.port == 0:
            raise Malformed("port 0 cannot be dialled")
    except Malformed as error:
        raise ConfigError(
            f"cannot announce {text[:80]!r} ({error}): give HOST:PORT, as in home.example.org:7710"
        ) from None
    return address


def _parse(text: str, names: Mapping[str, str]) -> Multiaddr:
    """``HOST:PORT`` or a multiaddr; ``names`` of hosts that mean something else."""
    if text.startswith("/"):
        return Multiaddr.parse(text)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise Malformed("a port is missing")
    if host.startswith("[") and host.endswith("]"):
        return Multiaddr("ip6", host[1:-1], _port(port))
    if ":" in host:
        raise Malformed("an IPv6 address needs brackets")
    return Multiaddr.of(names.get(host, host), _port(port))


def _canonical_host(family: str, host: str) -> str:
    try:
        if family == "ip4":
            return str(IPv4Address(host))
        if family == "ip6":
            address = IPv6Address(host)
            if address.scope_id is not None:
                # A zone names an interface of this machine and means nothing to others.
                raise Malformed(f"{host[:80]!r} has a zone")
            return str(address)
    except AddressValueError:
        raise Malformed(f"{host[:80]!r} is not an {family} address") from None
    if family not in _CODES:
        raise Malformed(f"{family[:20]!r} is not one of {', '.join(_CODES)}")
    if len(host) > _HOST_NAME_CHARS_MAX or not _HOST_NAME.fullmatch(host):
        raise Malformed(f"{host[:80]!r} is not a host name")
    return host.lower().removesuffix(".")


def _host_text(family: str, packed: bytes) -> str:
    if family == "ip4":
        return str(IPv4Address(packed))
    if family == "ip6":
        return str(IPv6Address(packed))
    return packed.decode("ascii", errors="replace")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise Malformed(f"{text[:20]!r} is not a port")
    return int(text)
