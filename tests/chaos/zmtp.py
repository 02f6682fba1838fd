"""ZMTP 3.1 with CURVE (RFCs 37 and 26), a client's part, so that it can be said otherwise."""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from nacl.bindings import (
    crypto_box,
    crypto_box_afternm,
    crypto_box_beforenm,
    crypto_box_keypair,
    crypto_box_open,
)

from overlay.identity.keys import NodeKey, curve_public
from tests.overlay.transport.raw import Target

#: What a ZeroMQ peer with CURVE says first: signature, version 3.1, mechanism, no server.
GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\x00") + bytes(32)
_COMMAND: Final = 4
_LONG: Final = 2


class Client:
    """The far end of a connection that is encrypted; nobody is admitted yet."""

    def __init__(self, writer: asyncio.StreamWriter, shared: bytes, sent: int) -> None:
        self.writer = writer
        self._shared = shared
        self._sent = sent

    def frame(self, data: bytes, *, more: bool = False, command: bool = False) -> bytes:
        """A frame of a message, or a command; none may be left out or change places."""
        self._sent += 1
        nonce = struct.pack(">Q", self._sent)
        plain = bytes([more | command << 1]) + data
        box = crypto_box_afternm(plain, b"CurveZMQMESSAGEC" + nonce, self._shared)
        return _framed(b"\x07MESSAGE" + nonce + box)


@asynccontextmanager
async def connected(node: Target, key: NodeKey, source: str) -> AsyncIterator[Client]:
    """Connected from the address ``source``. At the end the connection is broken, not closed."""
    [address] = node.addresses
    reader, writer = await asyncio.open_connection(
        address.host, address.port, local_addr=(source, 0)
    )
    try:
        yield await _handshake(reader, writer, curve_public(node.peer_id), key)
    finally:
        writer.transport.abort()


async def _handshake(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: bytes, key: NodeKey
) -> Client:
    public, secret = crypto_box_keypair()
    writer.write(GREETING)
    await reader.readexactly(len(GREETING))

    box = crypto_box(bytes(64), b"CurveZMQHELLO---" + struct.pack(">Q", 1), server, secret)
    hello = b"\x05HELLO\x01\x00" + bytes(72) + public + struct.pack(">Q", 1) + box
    writer.write(_framed(hello, _COMMAND))

    welcome = await _read(reader)
    plain = crypto_box_open(welcome[24:], b"WELCOME-" + welcome[8:24], server, secret)
    session, cookie = plain[:32], plain[32:]

    nonce = secrets.token_bytes(16)
    vouch = crypto_box(public + server, b"VOUCH---" + nonce, session, key.curve_secret)
    about = curve_public(key.peer_id) + nonce + vouch + _property(b"Socket-Type", b"DEALER")
    box = crypto_box(about, b"CurveZMQINITIATE" + struct.pack(">Q", 2), session, secret)
    writer.write(_framed(b"\x08INITIATE" + cookie + struct.pack(">Q", 2) + box, _COMMAND))
    await _read(reader)
    return Client(writer, crypto_box_beforenm(session, secret), 2)


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def _framed(body: bytes, flags: int = 0) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | _LONG]) + struct.pack(">Q", len(body)) + body


async def _read(reader: asyncio.StreamReader) -> bytes:
    [flags] = await reader.readexactly(1)
    size = 8 if flags & _LONG else 1
    return await reader.readexactly(int.from_bytes(await reader.readexactly(size)))
