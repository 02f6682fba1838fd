"""A lean HTTP client that streams: server-sent events over a connection opened beforehand.

Every server of the benchmarks is asked through it, so that what the client costs counts alike for
all, and little: a comfortable client takes milliseconds, which is much of a hot answer's time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any


class Connection:
    """A connection to ``http://127.0.0.1:port``, good for one request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use `open`."""
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))

    async def post(self, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The events of the answer, as they come. Raises RuntimeError for any status but 200."""
        data = json.dumps(body, separators=(",", ":")).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        self._writer.write(head.encode() + data)
        status = await self._reader.readline()
        headers = {}
        while (line := await self._reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        if b" 200 " not in status:
            rest = await self._reader.readexactly(int(headers.get("content-length", 0)))
            raise RuntimeError(f"{path} answers {status.decode().strip()}: {rest.decode()[:500]}")
        text = b""
        while size := int(await self._reader.readline(), 16):
            text += await self._reader.readexactly(size)
            await self._reader.readline()
            *events, text = text.split(b"\n\n")
            for event in events:
                if event.startswith(b"data: {"):
                    yield json.loads(event.removeprefix(b"data: "))

    def close(self) -> None:
        self._writer.close()
