"""Who may use the API: checked before anything else looks at a request."""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from overlay.errors import Forbidden, InvalidApiKey
from overlay.http.statuses import error_response

#: Open to all: says only that the node runs.
_PUBLIC_PATHS: Final = frozenset({"/health"})
#: Changes the mesh, so it needs the admin token even from this machine.
_ADMIN_PREFIX: Final = "/mesh/"
_READING_METHODS: Final = frozenset({"GET", "HEAD"})


class Gate:
    """ASGI middleware: a request gets through, or one OpenAI-shaped refusal goes back.

    On loopback a browser is the enemy: any web page may send requests to this machine. So the
    ``Host`` must be a name of this machine (a page can point its own name at 127.0.0.1), and a
    request from a page of elsewhere (``Origin``) is refused. Bound elsewhere, a key is demanded.

    The gate also turns whatever goes wrong outside of the routes into a plain answer.
    """

    def __init__(
        self, app: ASGIApp, *, admin_token: str, api_key: str | None, loopback: bool
    ) -> None:
        self._app = app
        self._admin_token = admin_token.encode()
        self._api_key = None if api_key is None else api_key.encode()
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check(scope["method"], scope["path"], Headers(scope=scope))
            await self._app(scope, receive, watched_send)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise  # uvicorn breaks the connection, so that the client notices
            await error_response(error)(scope, receive, send)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        if self._loopback:
            _check_names(headers)
        if path in _PUBLIC_PATHS:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        presented = key.strip().encode() if scheme.lower() == "bearer" else b""
        if hmac.compare_digest(presented, self._admin_token):
            return
        if path.startswith(_ADMIN_PREFIX) and method not in _READING_METHODS:
            raise InvalidApiKey(
                "this changes the mesh, so it needs the node's admin token "
                "(Authorization: Bearer ...): the hearth command sends it by itself"
            )
        if self._api_key is not None and not hmac.compare_digest(presented, self._api_key):
            raise InvalidApiKey(
                "the API key is wrong"
                if presented
                else "the API key is missing: send it as Authorization: Bearer ..."
            )


def _check_names(headers: Headers) -> None:
    host = headers.get("host", "")
    if not _is_loopback(f"//{host}"):
        raise Forbidden(
            f"the host name {host[:60]!a} is not of this machine: use 127.0.0.1 or localhost"
        )
    origin = headers.get("origin")
    if origin is not None and not _is_loopback(origin):
        raise Forbidden("web pages of other sites may not use this API")


def _is_loopback(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
