"""The API on a TCP port, inside the running asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Generator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from overlay.complaints import Complaints
from overlay.errors import AddressInUse, ConfigError, Overloaded
from overlay.http.connection import ApiConnection
from overlay.http.statuses import error_response
from overlay.limits import (
    HTTP_BODIES_BYTES_MAX,
    HTTP_CLOSE_S,
    HTTP_CONNECTIONS_MAX,
    HTTP_IDLE_S,
)

#: What each request's body may have, however much the others have.
_SHARE_BYTES: Final = HTTP_BODIES_BYTES_MAX // HTTP_CONNECTIONS_MAX
#: What answers say in ``Date`` is at most so old.
_DATE_S: Final = 1.0
#: The system has nothing left for another connection.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ApiServer:
    """Serves an ASGI app from `start` to `close`, each called once."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._server = _Server(
            uvicorn.Config(
                self._answer,
                interface="asgi3",
                http=ApiConnection,
                ws="none",
                lifespan="off",
                log_config=None,
                # The app answers for its own errors; uvicorn would log a traceback for a
                # connection that was cut at closing time.
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                # As many are taken in a row; and where the system has no descriptor left, asyncio
                # tries so many times a second.
                backlog=HTTP_CONNECTIONS_MAX,
                timeout_keep_alive=HTTP_IDLE_S,
                timeout_graceful_shutdown=HTTP_CLOSE_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        #: Of all requests that are open.
        self._bodies_bytes = 0
        self._complaints = Complaints()

    async def start(self) -> tuple[str, int]:
        """Bind, then serve; returns the address in use (port 0 has become a real one).

        Raises AddressInUse, or ConfigError when the address is none of this machine's.
        """
        listener = await _bind(self._host, self._port)
        asyncio.get_running_loop().set_exception_handler(self._failed)
        host, port = listener.getsockname()[:2]
        self._serving = asyncio.create_task(self._server.serve([listener]))
        self._serving.add_done_callback(lambda _: self._server.listening.set())
        await self._server.listening.wait()
        if self._serving.done():
            self._serving.result()  # it could not even start: raises why
        return host, port

    async def close(self) -> None:
        """Take no more connections, let open answers end for a few seconds, cut the rest."""
        if self._serving is None:
            return
        self._server.end()
        await self._serving
        if cut := self._server.server_state.tasks:
            await asyncio.wait(cut)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something of asyncio's own went wrong; thousands of times a second, if it is that."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            self._complaints.about(
                "the API", "lets nobody in", os.strerror(error.errno), loop.time()
            )
        else:
            loop.default_exception_handler(context)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self._server.server_state.connections) < HTTP_CONNECTIONS_MAX:
            await self._bounded(scope, receive, send)
            return
        refusal = error_response(Overloaded("all connections to this API are busy: try again"))
        refusal.headers["Connection"] = "close"
        await refusal(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's answer, unless the bodies of all requests would take too much memory."""
        own_bytes = 0

        async def weighed() -> Message:
            nonlocal own_bytes
            message = await receive()
            size = len(message.get("body", b""))
            own_bytes += size
            self._bodies_bytes += size
            if self._bodies_bytes > HTTP_BODIES_BYTES_MAX and own_bytes > _SHARE_BYTES:
                raise Overloaded("the bodies of other requests take all the room: try again")
            return message

        try:
            await self._app(scope, weighed, send)
        finally:
            self._bodies_bytes -= own_bytes


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, for the process belongs to the node, and without a loop
    that wakes ten times a second to look whether it is to end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        # It is told the count of tenths of a second, and renews ``Date`` at each tenth.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DATE_S):
                    await self._ending.wait()


async def _bind(host: str, port: int) -> socket.socket:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConfigError(f"the API cannot listen on {host}: {error.strerror or error}") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"port {port} on {host} is in use by another process: stop that one, or choose "
                f"another port with --api {host}:PORT (0 picks a free one)"
            ) from None
        raise ConfigError(
            f"the API cannot listen on {host} port {port} ({error.strerror}): choose an address of "
            "this machine with --api, as in 127.0.0.1:7711"
        ) from None
    return listener
