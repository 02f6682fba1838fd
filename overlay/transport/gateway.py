"""What `PortMapping` asks of a router."""

from __future__ import annotations

from typing import Protocol


class GatewayError(Exception):
    """There is no router to ask, or it does not do what it is asked; the reason, for people."""


class PortTaken(GatewayError):
    """The router passes that port on to another machine."""


class Gateway(Protocol):
    """A router that was found. All methods raise GatewayError, within seconds."""

    #: This machine's address on the network that it shares with the router.
    local_host: str

    async def external_host(self) -> str:
        """The router's IPv4 address on its far side."""

    async def map(self, external_port: int, port: int, lease_s: int) -> None:
        """Pass TCP to ``external_port`` on to ``port`` of this machine, or go on doing so.

        For ``lease_s``, or until `unmap` if the router knows no leases. Raises PortTaken.
        """

    async def unmap(self, external_port: int) -> None:
        """End that."""
