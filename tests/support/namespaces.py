"""Machines of one test: Linux network namespaces behind real NATs (nftables masquerade).

::

    hub 192.0.1.1 ---+--- wan 192.0.1.2, NAT, 10.1.0.1 --- left  10.1.0.2
                       +--- wan 192.0.1.3, NAT, 10.2.0.1 --- right 10.2.0.2

Needs root, ``ip`` and ``nft``. All of it is gone with the namespaces. The addresses are none of
those for documentation: routers know them, and think that they are not in public.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_ALL = ("net", "hub", "nat-left", "nat-right", "left", "right")
_WAN = {"hub": "192.0.1.1", "nat-left": "192.0.1.2", "nat-right": "192.0.1.3"}
_LAN = {"left": "10.1.0", "right": "10.2.0"}

_UPNP = """\
ext_ifname=wan
ext_ip={address}
listening_ip=lan
enable_upnp=yes
enable_natpmp=no
port=0
secure_mode=yes
uuid=8d7f2a30-0000-4000-8000-000000000001
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=forward
upnp_nat_chain=prerouting
upnp_nat_postrouting_chain=postrouting
allow 1024-65535 {net} 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


class CannotBuild(Exception):
    """This machine does not let the test have namespaces or NATs; the reason."""


class Network:
    """Addresses: ``hub`` is public; ``left`` and ``right`` are each behind a NAT of their own."""

    address: Final = {**_WAN, **{name: f"{net}.2" for name, net in _LAN.items()}}

    def __init__(self) -> None:
        self._prefix = f"hearth{os.getpid()}-"

    def within(self, name: str) -> tuple[str, ...]:
        """The command that runs another one on that machine."""
        return "ip", "netns", "exec", self._prefix + name

    def join_lans(self) -> None:
        """Give each NAT a route to what is behind the other one: a direct path."""
        self._lan_routes("add")

    def part_lans(self) -> None:
        """Take the direct path away again."""
        self._lan_routes("del")

    def readdress(self, name: str, last: int) -> str:
        """Give a machine behind a NAT another address, which it returns; the old one is gone."""
        address = f"{_LAN[name]}.{last}"
        self._ip(name, "addr", "flush", "dev", "lan")
        self._ip(name, "addr", "add", f"{address}/24", "dev", "lan")
        self._ip(name, "route", "add", "default", "via", f"{_LAN[name]}.1")
        return address

    def forward_port(self, name: str, port: int) -> None:
        """Have the NAT before a machine pass on to it what comes to its own port."""
        for rule in (
            "add chain ip nat pre { type nat hook prerouting priority -100 ; }",
            f"add rule ip nat pre iifname wan tcp dport {port} dnat to {_LAN[name]}.2",
        ):
            _run(*self.within(f"nat-{name}"), "nft", rule)

    @contextmanager
    def upnp(self, name: str, folder: Path) -> Iterator[Callable[[], str]]:
        """The NAT before a machine answers to UPnP, by miniupnpd; ``folder`` takes its files.

        Yields what tells its rules. Raises CannotBuild.
        """
        if shutil.which("miniupnpd") is None:
            raise CannotBuild("there is no miniupnpd on this machine")
        gateway = self.within(f"nat-{name}")
        for rule in (
            "add table inet upnp",
            *(f"add chain inet upnp {name}" for name in ("forward", "prerouting", "postrouting")),
            "add chain inet upnp pre { type nat hook prerouting priority -100 ; }",
            "add rule inet upnp pre jump prerouting",
        ):
            _run(*gateway, "nft", rule)
        settings = folder / "miniupnpd.conf"
        settings.write_text(_UPNP.format(address=_WAN[f"nat-{name}"], net=f"{_LAN[name]}.0/24"))
        with (folder / "miniupnpd.log").open("wb") as log:
            daemon = subprocess.Popen(
                [*gateway, "miniupnpd", "-d", "-f", str(settings), "-P", str(folder / "pid")],
                stdout=log,
                stderr=log,
            )
        try:
            yield lambda: _run(*gateway, "nft", "list chain inet upnp prerouting")
        finally:
            daemon.terminate()
            daemon.wait()

    def build(self) -> None:
        """Raises CannotBuild."""
        for name in _ALL:
            _run("ip", "netns", "add", self._prefix + name)
            self._ip(name, "link", "set", "lo", "up")
        self._ip("net", "link", "add", "bridge", "type", "bridge")
        self._ip("net", "link", "set", "bridge", "up")
        for name, address in _WAN.items():
            self._cable(name, "wan", "net", name)
            self._ip("net", "link", "set", name, "master", "bridge")
            self._ip(name, "addr", "add", f"{address}/24", "dev", "wan")
        for name, net in _LAN.items():
            gateway = f"nat-{name}"
            self._cable(name, "lan", gateway, "lan")
            self._ip(name, "addr", "add", f"{net}.2/24", "dev", "lan")
            self._ip(gateway, "addr", "add", f"{net}.1/24", "dev", "lan")
            self._ip(name, "route", "add", "default", "via", f"{net}.1")
            forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
            _run(*self.within(gateway), "sh", "-c", forward)
            for rule in (
                "add table ip nat",
                "add chain ip nat post { type nat hook postrouting priority 100 ; }",
                "add rule ip nat post oifname wan ip daddr 192.0.1.0/24 masquerade",
            ):
                _run(*self.within(gateway), "nft", rule)

    def tear_down(self) -> None:
        """Leave nothing behind."""
        for name in _ALL:
            subprocess.run(["ip", "netns", "del", self._prefix + name], capture_output=True)

    def _lan_routes(self, change: str) -> None:
        for name, other in (("left", "right"), ("right", "left")):
            self._ip(
                f"nat-{name}", "route", change, f"{_LAN[other]}.0/24", "via", _WAN[f"nat-{other}"]
            )

    def _cable(self, one: str, port: str, other: str, other_port: str) -> None:
        there = self._prefix + other
        kind = ("type", "veth", "peer", "name", other_port, "netns", there)
        self._ip(one, "link", "add", port, *kind)
        self._ip(one, "link", "set", port, "up")
        self._ip(other, "link", "set", other_port, "up")

    def _ip(self, name: str, *words: str) -> None:
        _run("ip", "-n", self._prefix + name, *words)


@contextmanager
def network() -> Iterator[Network]:
    """The machines, for as long as the test runs. Raises CannotBuild."""
    if os.geteuid() != 0:
        raise CannotBuild("network namespaces need root")
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            raise CannotBuild(f"there is no {tool} on this machine")
    built = Network()
    try:
        built.build()
        yield built
    finally:
        built.tear_down()


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotBuild(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
