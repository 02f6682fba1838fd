"""A node's HTTP API, as the commands use it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import httpx

from cli.options import ANSWER_TOKENS_MAX
from cli.sse import SseParser
from models.engine import goes_by
from overlay.errors import HearthError, Malformed, StreamReset, TimedOut, Unreachable, from_code
from overlay.limits import ADDRESSES_MAX, HANDSHAKE_S, REQUEST_DEADLINE_S, TOKEN_ADDRESSES_MAX

#: The node is on this machine: it answers at once, or not at all.
_CONNECT_S = 5.0
_READ_S = 30.0
#: Joining asks a friend's machine, at one address of the token after another, and each may be a
#: name of several; who leaves waits for a join that is under way.
_JOIN_S = TOKEN_ADDRESSES_MAX * ADDRESSES_MAX * HANDSHAKE_S + _READ_S
_JSON = {"Content-Type": "application/json"}
#: The node itself ends a request before this.
_ANSWER_S = REQUEST_DEADLINE_S + 30.0


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that the answer goes on with."""

    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of an answer; ``usage`` and ``hearth`` as the API gives them."""

    model: str
    finish_reason: str
    usage: dict[str, Any]
    hearth: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; None leaves the choice to the node."""

    messages: list[dict[str, str]]
    model: str | None = None
    route: str = "mesh"
    max_tokens: int = ANSWER_TOKENS_MAX
    temperature: float | None = None

    def body(self) -> dict[str, Any]:
        optional = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        return {
            "messages": self.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "hearth": {"route": self.route},
            **{name: value for name, value in optional.items() if value is not None},
        }


def answers_to(model: dict[str, Any], name: str) -> bool:
    """Whether a model of the API's list goes by ``name``."""
    aliases = model.get("hearth", {}).get("aliases", ())
    return goes_by(name, str(model.get("id")), aliases)


class NodeClient:
    """All methods raise HearthError: the node's own error, or that it cannot be reached."""

    def __init__(
        self,
        api_url: str,
        admin_token: str | None,
        find: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        """``find`` says where the node is now, as (API, admin token), should it be gone from here.

        It may raise HearthError. What finds the node gone fails, what comes next reaches it.
        """
        # A proxy of the environment has no business with a node on this machine.
        self._http = httpx.Client(trust_env=False)
        self._find = find
        self._go_to(api_url, admin_token)

    def _go_to(self, api_url: str, admin_token: str | None) -> None:
        self.api_url = api_url
        self._http.base_url = api_url
        self._http.headers.pop("Authorization", None)
        if admin_token:
            self._http.headers["Authorization"] = f"Bearer {admin_token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def status(self) -> dict[str, Any]:
        """The object of ``/mesh/status``."""
        return self._json("GET", "/mesh/status")

    def explanation(self, request_id: str | None) -> dict[str, Any]:
        """Why a request went where it went; None: the latest one."""
        return self._json("GET", f"/mesh/explanations/{_step(request_id or 'latest')}")

    def explanations(self) -> list[dict[str, Any]]:
        """The requests that can be explained, in brief: own clients' first, each latest first."""
        return list(self._json("GET", "/mesh/explanations").get("explanations") or [])

    def models(self) -> list[dict[str, Any]]:
        """The entries of ``/v1/models``: what can be asked for, here or at a peer."""
        listing = self._json("GET", "/v1/models")
        return list(listing.get("data") or [])

    def invite(self, ttl_s: int, uses: int, label: str, *, may_invite: bool) -> dict[str, Any]:
        """``{"token", "expires", "uses", …}``."""
        order = {"ttl_s": ttl_s, "uses": uses, "label": label, "may_invite": may_invite}
        return self._json("POST", "/mesh/invites", order)

    def invites(self) -> list[dict[str, Any]]:
        """The node's invites, the latest first."""
        return list(self._json("GET", "/mesh/invites").get("invites") or [])

    def cancel_invites(self, beginning: str | None) -> dict[str, Any]:
        """Cancel the invite whose id begins so, or all open ones; ``{"cancelled": [id]}``."""
        path = "" if beginning is None else f"/{_step(beginning)}"
        return self._json("DELETE", f"/mesh/invites{path}")

    def revoke(self, peer_id: str) -> dict[str, Any]:
        """``{"peer_id", "name", "by", "at"}``."""
        return self._json("POST", "/mesh/revocations", {"peer_id": peer_id})

    def leave(self) -> dict[str, Any]:
        """``{"mesh_id"}`` of the mesh that was left."""
        return self._json("POST", "/mesh/leave", read_s=_JOIN_S)

    def join(self, token: str) -> dict[str, Any]:
        """``{"mesh_id", "inviter", "name"}``."""
        return self._json("POST", "/mesh/join", {"token": token}, read_s=_JOIN_S)

    def pause(self, *, now: bool) -> dict[str, Any]:
        """The ``lending`` of `status`."""
        return self._json("POST", "/mesh/pause", {"now": now})

    def resume(self) -> dict[str, Any]:
        """The same object as `pause` gives."""
        return self._json("POST", "/mesh/resume")

    def chat(self, question: Question) -> Iterator[Delta | Reply]:
        """Stream an answer, ending with Reply. Closing the iterator cancels the request."""
        request = self._http.build_request(
            "POST",
            "/v1/chat/completions",
            content=_encoded(question.body()),
            headers=_JSON,
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
        )
        try:
            with closing(self._http.send(request, stream=True)) as response:
                if response.is_error:
                    response.read()
                    raise _error_of(response)
                yield from _answer_events(response.iter_bytes())
        except httpx.HTTPError as error:
            raise self._lost(error) from None

    def _json(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        read_s: float = _READ_S,
    ) -> dict[str, Any]:
        given: dict[str, Any] = {"timeout": httpx.Timeout(read_s, connect=_CONNECT_S)}
        if body is not None:
            given |= {"content": _encoded(body), "headers": _JSON}
        try:
            response = self._http.request(method, path, **given)
        except httpx.HTTPError as error:
            raise self._lost(error) from None
        if response.is_error:
            raise _error_of(response)
        return _object(response.content)

    def _lost(self, error: httpx.HTTPError) -> Unreachable | TimedOut | StreamReset:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            gone = Unreachable(f"no node answers at {self.api_url}; start one with: hearth up")
            if self._find is not None:
                with suppress(HearthError):
                    self._go_to(*self._find())
            return gone
        if isinstance(error, httpx.TimeoutException):
            return TimedOut(
                f"the node at {self.api_url} did not answer in time: its machine may be very busy; "
                "if it stays so, end the node and start it again"
            )
        return StreamReset(f"the node at {self.api_url} broke off the connection")


# What was typed need not be Unicode: then `?` stands for each odd byte.


def _encoded(body: dict[str, Any]) -> bytes:
    """As JSON."""
    return json.dumps(body, ensure_ascii=False).encode(errors="replace")


def _step(text: str) -> str:
    """As one step of a path."""
    return quote(text, safe="", errors="replace")


def _answer_events(chunks: Iterator[bytes]) -> Iterator[Delta | Reply]:
    parser = SseParser()
    model = finish_reason = ""
    usage: dict[str, Any] = {}
    hearth: dict[str, Any] = {}
    for chunk in chunks:
        for payload in parser.feed(chunk):
            if payload == "[DONE]":
                yield Reply(model, finish_reason, usage, hearth)
                return
            event = _object(payload)
            if isinstance(error := event.get("error"), dict):
                raise _rebuilt(error)
            model = event.get("model") or model
            usage = event.get("usage") or usage
            hearth = event.get("hearth") or hearth
            for choice in event.get("choices") or []:
                finish_reason = choice.get("finish_reason") or finish_reason
                if text := (choice.get("delta") or {}).get("content"):
                    yield Delta(text)
    raise StreamReset("the node broke off the answer")


def _error_of(response: httpx.Response) -> HearthError:
    """The error of a reply in OpenAI's shape, or of whatever else answered."""
    try:
        error = _object(response.content).get("error")
    except Malformed:
        error = None
    if not isinstance(error, dict):
        return Malformed(f"{response.url} answered {response.status_code}: no Hearth node?")
    return _rebuilt(error)


def _rebuilt(error: dict[str, Any]) -> HearthError:
    message = str(error.get("message") or "the node gave no reason")
    return from_code(str(error.get("code") or ""), message)


def _object(content: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Malformed("the node answered with something that is no JSON object")
    return value
