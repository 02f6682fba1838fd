"""CURVE sockets, with every option that bounds them, and the questions ZeroMQ can answer.

Each node has a ZeroMQ context of its own: the authenticator lives in the context, and closing it
closes everything.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import os
import resource
import secrets
import socket
import struct
import sys
from collections.abc import Callable, Container
from typing import Any, Final

import zmq
import zmq.asyncio
from zmq.auth import CURVE_ALLOW_ANY
from zmq.auth.asyncio import AsyncioAuthenticator

from overlay.errors import AddressInUse, ConfigError
from overlay.identity.keys import NodeKey, curve_public
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    HANDSHAKE_S,
    MEMBERS_MAX,
    MESSAGE_BYTES_MAX,
    SEND_QUEUE_MESSAGES_MAX,
)

#: CURVE wraps each message in 33 bytes; the codec checks the exact length.
_FRAME_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 64
#: More than connections come in within HANDSHAKE_S, and no more than macOS allows.
_DESCRIPTORS: Final = 1 << 16
#: For a dialled connection ZeroMQ counts three, its monitor's two among them. All members may have
#: to be dialled, some anew before what was is gone; ZeroMQ's own bound is 1023.
_SOCKETS_MAX: Final = 4 * MEMBERS_MAX
#: What was sent before closing (a Goodbye, a Refusal) may take this long to leave.
LINGER_MS: Final = 500

#: Linux's ``struct tcp_info`` up to ``tcpi_bytes_received``.
_TCP_INFO_BYTES: Final = 136

#: Events of a dialled socket after which it is of no use.
_ENDED: Final[dict[int, str]] = {
    zmq.EVENT_CLOSED: "nothing answers there",
    zmq.EVENT_DISCONNECTED: "the connection broke",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "another node or program answers there",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "another program answers there",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the other side refuses the connection",
}


class _Authenticator(AsyncioAuthenticator):
    """Lets every CURVE key in, since strangers may say hello, and notes the key as User-Id."""

    def curve_user_id(self, client_public_key: bytes) -> str:
        return client_public_key.hex()


class Sockets:
    """Makes the sockets of the node that owns ``key``. Needs a running asyncio loop."""

    def __init__(self, key: NodeKey) -> None:
        self._key = key
        self._context = zmq.Context()
        self._context.max_sockets = _SOCKETS_MAX
        self._context.linger = LINGER_MS
        # What has come is read at once, and waits in bounds of its own. Where this queue is full,
        # libzmq 4.3 stops reading the connection; if that breaks then, and a ZMTP PING was left
        # unread, it aborts the process. Whoever knows the PeerId could arrange that.
        self._context.rcvhwm = 0
        self._authenticator: _Authenticator | None = None

    def listener(self) -> zmq.Socket[bytes]:
        """A ROUTER that knows the CURVE key of whoever sends (`sender_key`)."""
        allow_descriptors()
        _begin_anywhere()
        if self._authenticator is None:
            self._authenticator = _Authenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve(domain="*", location=CURVE_ALLOW_ANY)
        router = self._bounded(zmq.ROUTER)
        router.curve_server = True
        router.curve_secretkey = self._key.curve_secret
        # A message for a peer that is gone is an error, not dropped.
        router.router_mandatory = True
        return router

    def dealer(self, peer: PeerId) -> zmq.Socket[bytes]:
        """A DEALER that talks to ``peer`` and to no other. Raises Malformed for a bad PeerId."""
        server = curve_public(peer)
        dealer = self._bounded(zmq.DEALER)
        dealer.curve_serverkey = server
        dealer.curve_publickey = curve_public(self._key.peer_id)
        dealer.curve_secretkey = self._key.curve_secret
        # Nothing is queued for a connection that does not exist, and each connection gets a
        # fresh socket: a message is either on this link or was never taken.
        dealer.immediate = True
        dealer.reconnect_ivl = -1
        return dealer

    async def close(self) -> None:
        """Close the context once all sockets are closed; waits at most LINGER_MS."""
        if self._authenticator is not None:
            self._authenticator.stop()
        await asyncio.get_running_loop().run_in_executor(None, self._context.term)

    def _bounded(self, kind: int) -> zmq.Socket[bytes]:
        link: zmq.Socket[bytes] = self._context.socket(kind)
        link.ipv6 = True
        link.tcp_keepalive = 1
        link.sndhwm = SEND_QUEUE_MESSAGES_MAX
        link.maxmsgsize = _FRAME_BYTES_MAX
        link.handshake_ivl = int(HANDSHAKE_S * 1000)
        # No ZMTP heartbeats: libzmq 4.3 aborts the process when their timer finds a connection that
        # broke while its queue was full, as any peer can arrange. `Link` has pings of its own.
        link.heartbeat_ivl = 0
        return link


def allow_descriptors() -> int:
    """Let this process have as many open connections as the system grants it; how many.

    Where descriptors run out, nobody is let in, and libzmq aborts.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def _begin_anywhere() -> None:
    """Have the next ROUTER count its connections from a number that nobody knows.

    It names them by that count, and libzmq 4.3 aborts the process where somebody has given itself
    the name that is next. It begins with C's ``rand``, which says the same in every process.
    """
    ctypes.CDLL(None).srand(ctypes.c_uint(secrets.randbits(32)))


def bind(router: zmq.Socket[bytes], address: Multiaddr) -> Multiaddr:
    """Listen on ``address``; returns the real one (port 0 becomes a free port).

    Raises AddressInUse, ConfigError.
    """
    try:
        router.bind(address.endpoint)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise AddressInUse(
                f"port {address.port} on {address.host} is in use by another process: stop that "
                "one, or choose another port with --listen ADDRESS:PORT (0 picks a free one)"
            ) from None
        reason = os.strerror(error.errno or 0)
        raise ConfigError(
            f"cannot listen on {address.host} port {address.port} ({reason}): choose an address of "
            "this machine with --listen, as in 0.0.0.0:7710"
        ) from None
    bound = bytes(router.get(zmq.LAST_ENDPOINT)).rstrip(b"\x00")
    port = int(bound.rpartition(b":")[2])
    return Multiaddr(address.family, address.host, port)


class Monitor:
    """Watches a dialled socket. Make it before ``connect``."""

    def __init__(self, dealer: zmq.Socket[Any]) -> None:
        self._dealer = dealer
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | sum(_ENDED)
        self._monitor = dealer.get_monitor_socket(events)
        self._events = zmq.asyncio.Socket.shadow(self._monitor)

    async def connected(self) -> str | None:
        """Wait for the CURVE handshake; None when it is done, or the reason why it is not."""
        return await self._next()

    async def ended(self) -> None:
        """Wait for the end of the connection that stood. ZeroMQ's reasons are of handshakes."""
        await self._next()

    async def _next(self) -> str | None:
        head, _endpoint = await self._events.recv_multipart()
        (event,) = struct.unpack_from("=H", head)
        return _ENDED.get(event)

    def close(self) -> None:
        self._dealer.disable_monitor()
        self._events.close(linger=0)
        self._monitor.close(linger=0)


def sender_key(frame: zmq.Frame) -> bytes:
    """The CURVE public key that authenticated whoever sent this frame."""
    return bytes.fromhex(str(frame.get("User-Id")))


class Connection:
    """The TCP connection of a peer, so that it can be cut.

    ZeroMQ has no call that disconnects one peer of a ROUTER. It does tell the file descriptor of
    a frame's connection, and the host that it was made from; that and the remote port, noted at
    once, guard against its reuse.
    """

    __slots__ = ("_host", "_remote", "descriptor", "source")

    def __init__(self, descriptor: int, host: str, remote: tuple[Any, ...] | None) -> None:
        """``host`` and ``remote``: the other end as the system names it; None: it is gone."""
        self.descriptor = descriptor
        self._remote = remote
        ip = ipaddress.ip_address(host)
        if isinstance(ip, ipaddress.IPv6Address):
            # A socket for both families calls 192.0.2.7 ::ffff:192.0.2.7.
            ip = ip.ipv4_mapped or ip
        self._host = str(ip)
        #: The network address of the other end: for IPv6 the network of 64 bits, one household.
        self.source = str(
            ip if ip.version == 4 else ipaddress.ip_network((int(ip) >> 64 << 64, 64))
        )

    @classmethod
    def of(cls, frame: zmq.Frame) -> Connection:
        """The one that the frame came over."""
        descriptor, host = int(frame.get(zmq.SRCFD)), str(frame.get("Peer-Address"))
        remote = _with_socket(descriptor, lambda tcp: tcp.getpeername())
        # Who sent this may be gone, and the descriptor another's by now.
        # A local socket's name is a text, and often an empty one.
        known = isinstance(remote, tuple) and remote[0] == host
        return cls(descriptor, host, remote if known else None)

    @classmethod
    def accepted(cls, descriptor: int, ports: Container[int]) -> Connection | None:
        """The one that was accepted so at one of these ports; None: it is gone already."""
        ends = _with_socket(descriptor, lambda tcp: (tcp.getsockname(), tcp.getpeername()))
        # By now it may be another's: a client of the API's, say.
        if ends is None or not isinstance(ends[0], tuple) or ends[0][1] not in ports:
            return None
        return cls(descriptor, ends[1][0], ends[1])

    @property
    def remote(self) -> str:
        """``host:port`` of the other end; no port if it is gone already."""
        port = "" if self._remote is None else self._remote[1]
        return f"{self._host}:{port}"

    def received_bytes(self) -> int | None:
        """What has come over it so far; None: the system does not say."""
        received = _with_socket(self.descriptor, self._received)
        return None if received is None else int(received)

    def cut(self) -> bool:
        """End the connection, if it still is this one; both ends notice. Whether it was."""
        return bool(_with_socket(self.descriptor, self._shut))

    def _received(self, tcp: socket.socket) -> int | None:
        if sys.platform != "linux" or self._remote is None or tcp.getpeername() != self._remote:
            return None
        told = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return None if len(told) < _TCP_INFO_BYTES else struct.unpack("=Q", told[-8:])[0]

    def _shut(self, tcp: socket.socket) -> bool:
        if self._remote is None or tcp.getpeername() != self._remote:
            return False
        tcp.shutdown(socket.SHUT_RDWR)
        return True


def _with_socket(descriptor: int, use: Callable[[socket.socket], Any]) -> Any:
    """What ``use`` makes of the socket; None if there is none."""
    copy = None
    try:
        copy = os.dup(descriptor)
        with socket.socket(fileno=copy) as tcp:
            copy = None  # It is closed with the socket.
            return use(tcp)
    except OSError:
        return None
    finally:
        # By now it was no socket, but an eventfd of ZeroMQ's, say.
        if copy is not None:
            os.close(copy)
