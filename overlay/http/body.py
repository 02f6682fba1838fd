"""Request bodies, bounded."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request

from overlay.http.parse import parse_json
from overlay.limits import HTTP_BODY_BYTES_MAX, HTTP_BODY_S


async def read_json(request: Request) -> object:
    """The body as JSON. Raises InvalidRequest, HTTPException 408 or 413, ClientDisconnect."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > HTTP_BODY_BYTES_MAX:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(HTTP_BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > HTTP_BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {HTTP_BODY_S} s") from None
    return parse_json(bytes(body))


def _too_large() -> HTTPException:
    return HTTPException(413, f"the request is larger than {HTTP_BODY_BYTES_MAX >> 20} MiB")
