"""The routes of the HTTP API; docs/reference/http.md describes them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from overlay.errors import ConfigError, ModelNotFound
from overlay.http import shapes
from overlay.http.answers import AnswerEndpoint
from overlay.http.backend import Backend, meant
from overlay.http.body import read_json
from overlay.http.gate import Gate
from overlay.http.parse import (
    parse_chat,
    parse_completion,
    parse_invite,
    parse_invite_id,
    parse_join,
    parse_pause,
    parse_request_id,
    parse_revocation,
)
from overlay.http.shapes import ChatShape, CompletionShape
from overlay.http.statuses import error_response
from overlay.limits import ASKED_MODEL_CHARS_MAX


def create_app(
    backend: Backend, *, admin_token: str, api_key: str | None, loopback: bool
) -> Starlette:
    """The API of one node.

    ``loopback``: the API is bound to this machine alone, and ``api_key`` is not asked for;
    bound elsewhere, clients must present it on every path but ``/health``.
    ``admin_token``: what changes of the mesh demand; it also opens everything else.
    Raises ConfigError when the API would be open to others.
    """
    if not loopback and not api_key:
        raise ConfigError(
            "an API that other machines can reach needs a key: set api_key, or bind it to 127.0.0.1"
        )
    assert admin_token
    mesh = _MeshRoutes(backend)
    app = Starlette(
        routes=[
            Route(
                "/v1/chat/completions",
                AnswerEndpoint(backend, parse_chat, ChatShape()),
                methods=["POST"],
            ),
            Route(
                "/v1/completions",
                AnswerEndpoint(backend, parse_completion, CompletionShape()),
                methods=["POST"],
            ),
            Route("/v1/models", mesh.models),
            Route("/v1/models/{name:path}", mesh.model),
            Route("/health", mesh.health),
            Route("/metrics", mesh.metrics),
            Route("/mesh/status", mesh.status),
            Route("/mesh/explanations", mesh.explanations),
            Route("/mesh/explanations/{id:path}", mesh.explanation),
            Route("/mesh/invites", mesh.invites, methods=["GET"]),
            Route("/mesh/invites", mesh.invite, methods=["POST"]),
            Route("/mesh/invites", mesh.cancel_invites, methods=["DELETE"]),
            Route("/mesh/invites/{id}", mesh.cancel_invite, methods=["DELETE"]),
            Route("/mesh/revocations", mesh.revoke, methods=["POST"]),
            Route("/mesh/join", mesh.join, methods=["POST"]),
            Route("/mesh/leave", mesh.leave, methods=["POST"]),
            Route("/mesh/pause", mesh.pause, methods=["POST"]),
            Route("/mesh/resume", mesh.resume, methods=["POST"]),
        ],
        middleware=[
            Middleware(
                Gate,
                admin_token=admin_token,
                api_key=None if loopback else api_key,
                loopback=loopback,
            )
        ],
        exception_handlers={HTTPException: _refuse},
    )
    app.router.redirect_slashes = False
    return app


class _MeshRoutes:
    """Everything that is answered at once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def models(self, request: Request) -> Response:
        listings = [shapes.model(listing) for listing in self._backend.models()]
        return _json({"object": "list", "data": listings})

    async def model(self, request: Request) -> Response:
        name, listings = request.path_params["name"], self._backend.models()
        if not name:  # The slash is one too many; no model is meant.
            raise HTTPException(404)
        listing = meant(listings, name)
        if listing is None:
            raise ModelNotFound.named(
                name[:ASKED_MODEL_CHARS_MAX], [listing.name for listing in listings]
            )
        return _json(shapes.model(listing))

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        return Response(
            self._backend.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def status(self, request: Request) -> Response:
        return _json(self._backend.status())

    async def explanations(self, request: Request) -> Response:
        return _json({"explanations": self._backend.explanations()})

    async def explanation(self, request: Request) -> Response:
        beginning = parse_request_id(request.path_params["id"])
        return _json(self._backend.explanation(beginning))

    async def invite(self, request: Request) -> Response:
        order = parse_invite(await read_json(request))
        made = self._backend.invite(
            order.ttl_s, order.uses, order.label, may_invite=order.may_invite
        )
        return _json(made)

    async def invites(self, request: Request) -> Response:
        return _json({"invites": self._backend.invites()})

    async def cancel_invites(self, request: Request) -> Response:
        return _json({"cancelled": self._backend.cancel_invites(None)})

    async def cancel_invite(self, request: Request) -> Response:
        beginning = parse_invite_id(request.path_params["id"])
        return _json({"cancelled": self._backend.cancel_invites(beginning)})

    async def revoke(self, request: Request) -> Response:
        return _json(self._backend.revoke(parse_revocation(await read_json(request))))

    async def leave(self, request: Request) -> Response:
        return _json(await self._backend.leave())

    async def join(self, request: Request) -> Response:
        return _json(await self._backend.join(parse_join(await read_json(request))))

    async def pause(self, request: Request) -> Response:
        hand_back = parse_pause(await read_json(request))
        return _json(self._backend.pause(hand_back=hand_back))

    async def resume(self, request: Request) -> Response:
        return _json(self._backend.resume())


def _json(value: object) -> Response:
    return Response(shapes.dump(value), media_type="application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        what = f"{request.method} {request.url.path[:60]!a}"
        hint = ""
        if error.status_code == 404 and not request.url.path.startswith("/mesh/"):
            # A client whose address lacks the /v1 asks for /chat/completions; others, for more
            # of OpenAI's paths than there are.
            hint = ": OpenAI's are /v1/chat/completions, /v1/completions and /v1/models"
        error = HTTPException(error.status_code, f"there is no {what} here{hint}", error.headers)
    return error_response(error)
