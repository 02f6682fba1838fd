"""What sockets are given by the system."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import socket
import sys
from contextlib import closing
from dataclasses import dataclass

import pytest
import zmq

from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.transport import sockets
from overlay.transport.sockets import Connection, Monitor, Sockets, bind
from tests.overlay.transport.nodes import ANY_PORT, eventually
from tests.overlay.transport.raw import raw_peer

CODE = """
import resource
from overlay.transport.sockets import allow_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
allow_descriptors()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@dataclass
class Listening:
    peer_id: PeerId
    addresses: list[Multiaddr]


async def test_a_process_that_listens_may_have_as_many_connections_as_the_system_grants() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CODE), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "(200, 200)"


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((1024, resource.RLIM_INFINITY), (1 << 16, resource.RLIM_INFINITY)),
        ((1024, 1 << 20), (1 << 16, 1 << 20)),
        ((1 << 17, 1 << 20), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_what_is_enough_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: tuple[int, int] | None
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda which, value: told.append(value))
    sockets.allow_descriptors()
    assert told == ([raised] if raised else [])


async def test_nobody_knows_what_zeromq_will_call_the_next_connection() -> None:
    """Who gives itself that name has libzmq abort."""
    names = []
    for _ in range(2):
        ctypes.CDLL(None).srand(1)  # As if this process had just begun.
        names.append(await name_of_the_first_connection())
    assert names[0] != names[1]


async def name_of_the_first_connection() -> bytes:
    key = NodeKey.from_seed(bytes(32))
    made = Sockets(key)
    router = made.listener()
    node = Listening(key.peer_id, [bind(router, ANY_PORT)])
    async with raw_peer(node, NodeKey.from_seed(bytes([1] * 32))) as peer:
        await peer.send(b"hello")
        await eventually(lambda: bool(router.poll(0)))
        name, _ = router.recv_multipart()
    router.close()
    await made.close()
    return name


async def test_all_members_can_be_dialled() -> None:
    key = NodeKey.from_seed(bytes(32))
    made = Sockets(key)
    sockets.allow_descriptors()
    # As many as the limit of descriptors on a small machine allows, and more than ZeroMQ by itself.
    dealers = [made.dealer(key.peer_id) for _ in range(400)]
    monitors = [Monitor(dealer) for dealer in dealers]
    for monitor, dealer in zip(monitors, dealers, strict=True):
        monitor.close()
        dealer.close(linger=0)
    await made.close()


async def test_a_descriptor_that_is_another_connections_by_now_is_left_alone() -> None:
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as router,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), source_address=("127.0.0.3", 0)) as far,
        closing(server.accept()[0]) as near,
    ):
        port = router.bind_to_random_port("tcp://127.0.0.1")
        with context.socket(zmq.DEALER) as dealer:
            dealer.connect(f"tcp://127.0.0.2:0;127.0.0.1:{port}")
            dealer.send(b"hello")
            frame = router.recv_multipart(copy=False)[0]
        descriptor = frame.get(zmq.SRCFD)
        async with asyncio.timeout(10):
            while is_open(descriptor):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        os.dup2(near.fileno(), descriptor)
        connection = Connection.of(frame)
        assert (connection.source, connection.remote) == ("127.0.0.2", "127.0.0.2:")
        connection.cut()
        far.sendall(b"x")
        assert near.recv(1) == b"x"
        os.close(descriptor)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class Frame:
    """Of a connection that is gone: its descriptor is another's by now."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def get(self, option: object) -> object:
        return self._descriptor if option == zmq.SRCFD else "127.0.0.1"


def test_a_descriptor_that_is_no_socket_any_more_is_left_as_it_is() -> None:
    """A copy of it that nobody closes would be one more with each peer that is gone so soon."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        connection = Connection.of(Frame(writing))  # type: ignore[arg-type]
        connection.cut()
        assert connection.remote == "127.0.0.1:"
        os.close(writing)
        assert os.read(reading, 1) == b"", "somebody else has the pipe open"
    finally:
        os.close(reading)


def test_a_descriptor_that_is_a_local_socket_by_now_is_left_as_it_is() -> None:
    near, far = socket.socketpair()
    with near, far:
        connection = Connection.of(Frame(near.fileno()))  # type: ignore[arg-type]
        connection.cut()
        assert connection.remote == "127.0.0.1:"
        far.sendall(b"x")
        assert near.recv(1) == b"x"


@pytest.mark.parametrize(
    ("host", "remote", "source"),
    [
        ("192.0.2.7", "192.0.2.7:41000", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7:41000", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7:41000", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::1%eth0:41000", "fe80::/64"),
    ],
)
def test_the_other_end_has_one_name_whatever_kind_of_socket_it_came_to(
    host: str, remote: str, source: str
) -> None:
    connection = Connection(99, host, (host, 41_000, 0, 0))
    assert (connection.remote, connection.source) == (remote, source)


def test_what_was_accepted_is_known_by_the_port_that_it_came_to() -> None:
    """A descriptor may be that of another server's connection by the time that one hears of it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as far,
        closing(server.accept()[0]) as near,
    ):
        port = server.getsockname()[1]
        assert Connection.accepted(near.fileno(), {port + 1}) is None
        connection = Connection.accepted(near.fileno(), {port})
        assert connection is not None
        assert connection.source == "127.0.0.1"
        assert connection.remote == "{}:{}".format(*far.getsockname())
        assert connection.cut()
        assert far.recv(1) == b""
    assert not connection.cut()
    near, other = socket.socketpair()
    with near, other:
        assert Connection.accepted(near.fileno(), {port}) is None
