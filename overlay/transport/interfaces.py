"""Where others may reach this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import ifaddr

from overlay.identity.multiaddr import Multiaddr
from overlay.limits import ADDRESSES_MAX

_ANY = {"0.0.0.0", "::"}


def reachable_addresses(bound: Sequence[Multiaddr]) -> tuple[Multiaddr, ...]:
    """The addresses to tell others: a wildcard becomes each interface's, LAN before loopback."""
    found: dict[Multiaddr, None] = {}
    for address in bound:
        if address.host not in _ANY:
            found[address] = None
            continue
        for host in _interface_hosts(ipv6=address.host == "::"):
            found[Multiaddr.of(host, address.port)] = None
    return tuple(found)[:ADDRESSES_MAX]


def _interface_hosts(*, ipv6: bool) -> list[str]:
    hosts = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            parsed = ipaddress.ip_address(text)
            # A link-local address means nothing without this machine's interface number.
            if not parsed.is_link_local and (ipv6 or parsed.version == 4):
                hosts.append(parsed)
    hosts.sort(key=lambda ip: (ip.is_loopback, ip.version, int(ip)))
    return [str(ip) for ip in hosts]
