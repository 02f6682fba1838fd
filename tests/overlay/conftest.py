"""What tests of the overlay's parts share."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture(scope="session")
def multicast_on_loopback() -> None:
    """Skip unless the loopback interface carries multicast, as mDNS needs it."""
    group, loopback = "224.0.0.251", socket.inet_aton("127.0.0.1")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        try:
            receiver.bind(("", 0))
            receiver.settimeout(2.0)
            membership = socket.inet_aton(group) + loopback
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
            sender.sendto(b"?", (group, receiver.getsockname()[1]))
            receiver.recv(1)
        except OSError as error:
            pytest.skip(f"this machine does no multicast on its loopback interface: {error}")
