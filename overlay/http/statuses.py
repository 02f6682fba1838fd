"""Errors as HTTP shows them: a status for every code, and OpenAI's error object."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from overlay.errors import HearthError, InvalidRequest, ModelNotFound

log = logging.getLogger(__name__)

#: Code of an error -> HTTP status. 4xx: the client mends it; 502, 503, 504: trying again may help.
STATUSES: Final[Mapping[str, int]] = {
    "internal": 500,
    "config": 500,
    "address-in-use": 500,
    "home-in-use": 500,
    "node-not-running": 503,
    "model-file-invalid": 500,
    "download-failed": 502,
    "identity": 403,
    "token-malformed": 400,
    "invite-expired": 410,
    "invite-used-up": 410,
    "invite-unknown": 404,
    "not-a-member": 403,
    "revoked": 403,
    "already-member": 409,
    "mesh-mismatch": 409,
    "local-protocol": 500,
    "remote-protocol": 502,
    "malformed": 502,
    "bad-signature": 502,
    "limit-exceeded": 502,
    "unsupported-version": 502,
    "peer": 502,
    "unreachable": 502,
    "timed-out": 504,
    "overloaded": 503,
    "quota-used-up": 429,
    "paused": 503,
    "stream-reset": 502,
    "routing": 503,
    "no-route": 503,
    "generation": 500,
    "invalid-request": 400,
    "model-not-found": 404,
    "request-unknown": 404,
    "context-length-exceeded": 400,
    "engine-busy": 503,
    "engine-failed": 500,
    "access": 403,
    "invalid-api-key": 401,
    "forbidden": 403,
}

#: What a client should wait before it asks a busy node again.
_RETRY_AFTER_S: Final = 1

#: What a client reads of an error that is our bug; the log has the rest.
_INTERNAL_SENTENCE: Final = "the node ran into a bug: its log says more"

#: Codes for what HTTP itself refuses.
_HTTP_CODES: Final[Mapping[int, str]] = {
    404: "not_found",
    405: "method_not_allowed",
    408: "request_too_slow",
    413: "request_too_large",
}

_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}


def error_object(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body ``{"error": {"message", "type", "param", "code"}}`` for any exception.

    The code is the error's own in OpenAI's spelling (``model_not_found``). An exception that is
    no HearthError or HTTPException is a bug: it is logged here, and its text stays at home.
    """
    if isinstance(error, HTTPException):
        return _body(error.status_code, error.detail, None, _HTTP_CODES.get(error.status_code))
    if not isinstance(error, HearthError):
        log.error("an HTTP request failed by a bug", exc_info=error)
        return _body(500, _INTERNAL_SENTENCE, None, "internal")
    param = error.param if isinstance(error, InvalidRequest) else None
    if isinstance(error, ModelNotFound):
        param = "model"
    code = error.code.replace("-", "_")
    return _body(STATUSES.get(error.code, 500), str(error), param, code)


def error_response(error: Exception) -> Response:
    """The whole HTTP answer for an error."""
    status, body = error_object(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if status in (429, 503):
        known_s = error.retry_after_s if isinstance(error, HearthError) else 0.0
        headers["Retry-After"] = str(math.ceil(known_s) or _RETRY_AFTER_S)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # Plain ASCII can hold anything that a client sent, even half a surrogate pair.
    return Response(json.dumps(body), status, headers, media_type="application/json")


def _body(
    status: int, message: str, param: str | None, code: str | None
) -> tuple[int, dict[str, Any]]:
    kind = _TYPES.get(status, "invalid_request_error")
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}
