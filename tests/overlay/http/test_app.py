"""The routes, through the ASGI interface."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from models.engine import Alternative, FinishReason, TokenLogprob
from overlay.errors import ConfigError, EngineBusy, EngineFailed, StreamReset
from overlay.http import body
from overlay.http.app import create_app
from overlay.http.backend import REQUEST_ID_BYTES, Answered, ModelListing, Route, Text
from overlay.identity.peer_id import PeerId
from tests.overlay.http.scripted import ADMIN, ANSWERED, INVITES, ScriptedBackend
from tests.support.recorder import PEER_ID

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}


def client_of(
    backend: ScriptedBackend, *, api_key: str | None = None, loopback: bool = True
) -> httpx.AsyncClient:
    app = create_app(backend, admin_token=ADMIN, api_key=api_key, loopback=loopback)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:7711")


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
async def client(backend: ScriptedBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(backend) as client:
        yield client


def events_of(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == "", "an event was not ended"
    payloads = [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]
    return [p if p == "[DONE]" else json.loads(p) for p in payloads]


# --- Answers ----------------------------------------------------------------------------------


async def test_a_chat_answer(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    reply = (await client.post("/v1/chat/completions", json=CHAT)).json()
    assert reply["object"] == "chat.completion"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["model"] == "tiny"
    [choice] = reply["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "Hellö!"
    assert choice["finish_reason"] == "stop"
    assert reply["usage"] == {
        "prompt_tokens": 40,
        "completion_tokens": 2,
        "total_tokens": 42,
        "prompt_tokens_details": {"cached_tokens": 32},
    }
    assert reply["hearth"] == ANSWERED.hearth
    assert backend.closed.is_set()


async def test_an_answer_is_called_by_its_request(
    client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    chat = (await client.post("/v1/chat/completions", json={**CHAT, "n": 2})).json()
    text = (await client.post("/v1/completions", json={"prompt": "Once"})).json()
    of_chat, of_second, of_text = (ask.request_id for ask in backend.asks)
    assert of_second is None, "the node gives the second answer an id of its own"
    assert of_chat is not None
    assert of_text is not None
    assert [chat["id"], text["id"]] == [f"chatcmpl-{of_chat.hex()}", f"cmpl-{of_text.hex()}"]
    assert len(of_chat) == REQUEST_ID_BYTES
    assert of_chat != of_text


@pytest.mark.parametrize("asked", [None, False, True])
async def test_an_explanation_comes_when_asked(
    client: httpx.AsyncClient, backend: ScriptedBackend, asked: bool | None
) -> None:
    hearth = {} if asked is None else {"hearth": {"explain": asked}}
    await client.post("/v1/chat/completions", json={**CHAT, **hearth})
    assert backend.asks[0].explain is bool(asked)


async def test_a_chat_stream(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lö!"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk.get("hearth") for chunk in chunks] == [None, None, None, ANSWERED.hearth]
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_stream_with_usage_has_one_more_chunk(client: httpx.AsyncClient) -> None:
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, _ = events_of(await client.post("/v1/chat/completions", json=asked))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 32
    assert chunks[-1]["hearth"] == last["hearth"] == ANSWERED.hearth


async def test_completions(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    asked = {"prompt": "Once", "hearth": {"route": "local"}}
    reply = (await client.post("/v1/completions", json=asked)).json()
    assert reply["object"] == "text_completion"
    assert reply["choices"][0]["text"] == "Hellö!"
    assert backend.asks[0].prompt == "Once"
    assert backend.asks[0].route is Route.LOCAL

    response = await client.post("/v1/completions", json={**asked, "stream": True})
    *chunks, done = events_of(response)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hellö!"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert done == "[DONE]"


LIKELY = TokenLogprob(b"H", -0.5, (Alternative(b"H", -0.5), Alternative(b"J", -1.5)))


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}),
        ("/v1/completions", {"prompt": "Once", "logprobs": 2}),
    ],
)
async def test_log_probabilities_go_with_their_tokens(path: str, asked: dict[str, Any]) -> None:
    def told(logprobs: dict[str, Any]) -> list[Any]:
        if path == "/v1/completions":
            return [*zip(logprobs["tokens"], logprobs["text_offset"], strict=True)]
        return [entry["token"] for entry in logprobs["content"]]

    expected = [("H", 0), ("H", 1)] if path == "/v1/completions" else ["H", "H"]
    backend = ScriptedBackend(Text("", (LIKELY,)), Text("HH", (LIKELY,)), ANSWERED)
    async with client_of(backend) as client:
        whole = (await client.post(path, json=asked)).json()
        assert told(whole["choices"][0]["logprobs"]) == expected
        *chunks, _ = events_of(await client.post(path, json={**asked, "stream": True}))
        choices = [chunk["choices"][0] for chunk in chunks]
        streamed = [told(choice["logprobs"]) for choice in choices if choice["logprobs"]]
        assert streamed == [expected[:1], expected[1:]]
        assert backend.asks[0].sampling.logprobs == 2


@pytest.mark.parametrize(
    ("path", "asked"), [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "Once"})]
)
async def test_several_answers(
    client: httpx.AsyncClient, backend: ScriptedBackend, path: str, asked: dict[str, Any]
) -> None:
    whole = (await client.post(path, json={**asked, "n": 3})).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert whole["usage"]["prompt_tokens"] == 40
    assert whole["usage"]["completion_tokens"] == 3 * 2
    streaming = {**asked, "n": 3, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, done = events_of(await client.post(path, json=streaming))
    assert done == "[DONE]"
    assert last["usage"] == whole["usage"]
    endings = [c for c in chunks if c["choices"][0]["finish_reason"] == "stop"]
    assert sorted(chunk["choices"][0]["index"] for chunk in endings) == [0, 1, 2]
    assert all(chunk["hearth"] == ANSWERED.hearth for chunk in endings)
    for index in range(3):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        texts = [c["text"] if "text" in c else c["delta"].get("content", "") for c in mine]
        assert "".join(texts) == "Hellö!"
    assert len(backend.asks) == 6


@pytest.mark.parametrize("asked_for", [None, "tiny", "Small"])
async def test_an_answer_names_its_model_whatever_it_was_asked_by(
    client: httpx.AsyncClient, asked_for: str | None
) -> None:
    asked = {"messages": CHAT["messages"], "model": asked_for}
    whole = (await client.post("/v1/chat/completions", json=asked)).json()
    assert whole["model"] == "tiny"
    streamed = await client.post("/v1/chat/completions", json={**asked, "stream": True})
    chunks = events_of(streamed)[:-1]
    assert {chunk["model"] for chunk in chunks} == {"tiny"}


async def test_an_answer_names_the_default_model_that_was_not_to_be_had_when_it_was_asked_for(
    client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    backend.listings = []
    reply = (await client.post("/v1/completions", json={"prompt": "Once"})).json()
    assert backend.asks[-1].model == reply["model"] == "lost"


@pytest.mark.parametrize(
    ("own", "meant"), [(True, "tiny"), (False, "small")], ids=["ours", "friends'"]
)
async def test_a_friends_file_may_have_a_name_that_another_model_is_also_called_by(
    client: httpx.AsyncClient, backend: ScriptedBackend, own: bool, meant: str
) -> None:
    file = ModelListing("small", (), "a friend's file", False, 512, 1_700_000_000)
    backend.listings = [replace(backend.listings[0], local=own), file]
    for asked, model in (("small", meant), ("Small", meant), ("TINY", "tiny")):
        reply = (await client.post("/v1/chat/completions", json={**CHAT, "model": asked})).json()
        listed = (await client.get(f"/v1/models/{asked}")).json()
        assert backend.asks[-1].model == reply["model"] == listed["id"] == model


async def test_an_answer_without_text_is_still_a_stream() -> None:
    async with client_of(ScriptedBackend(ANSWERED)) as client:
        response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        first, last, done = events_of(response)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert done == "[DONE]"


# --- What goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(EngineBusy("the queue is full"), 503, "engine_busy"), (KeyError("oops"), 500, "internal")],
)
async def test_an_error_before_the_first_token_is_plain_http(
    error: Exception, status: int, code: str, stream: bool
) -> None:
    backend = ScriptedBackend(error)
    async with client_of(backend) as client:
        response = await client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert "oops" not in response.text
    assert backend.closed.is_set()


async def test_an_error_in_mid_stream_is_its_last_event() -> None:
    backend = ScriptedBackend(Text("Hel"), StreamReset("the peer broke off the stream"))
    async with client_of(backend) as client:
        response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert response.status_code == 200
    last = events_of(response)[-1]
    assert last["error"]["message"] == "the peer broke off the stream"
    assert last["error"]["code"] == "stream_reset"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([Text("Hel")], EngineFailed.code),
        (
            [Text("Hel"), Answered(FinishReason.CANCELLED, 1, 0, 1, {})],
            StreamReset.code,
        ),
    ],
    ids=["never-ended", "cancelled"],
)
async def test_half_an_answer_is_an_error(script: list[Any], code: str) -> None:
    async with client_of(ScriptedBackend(*script)) as client:
        whole = await client.post("/v1/chat/completions", json=CHAT)
        stream = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert whole.status_code >= 500
    assert whole.json()["error"]["code"] == code.replace("-", "_")
    assert events_of(stream)[-1]["error"]["code"] == code.replace("-", "_")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/health", 405),
        ("GET", "/v1/models/unknown", 404),
    ],
)
async def test_refusals_have_openais_shape(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/chat/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models/"),
    ],
)
async def test_who_asks_for_what_is_not_there_is_told_what_is(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    message = (await client.request(method, path)).json()["error"]["message"]
    there_is = "OpenAI's are /v1/chat/completions, /v1/completions and /v1/models"
    assert message == f"there is no {method} '{path}' here: {there_is}"
    reading = (await client.get("/v1/chat/completions")).json()["error"]["message"]
    assert reading == "there is no GET '/v1/chat/completions' here"


async def test_who_asks_for_an_unknown_model_is_told_which_there_are(
    client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    error = (await client.get("/v1/models/gpt-4o")).json()["error"]
    there_is = ", ".join(sorted(listing.name for listing in backend.models()))
    assert error["message"] == f"no node serves a model named 'gpt-4o'; there is: {there_is}"
    assert error["param"] == "model"


async def test_a_body_that_is_no_json(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    response = await client.post("/v1/chat/completions", content=b'{"model": ')
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert backend.asks == []


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    monkeypatch.setattr(body, "HTTP_BODY_BYTES_MAX", 1000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 500

    content = b"x" * 1500 if announced else pieces()
    response = await client.post("/v1/chat/completions", content=content)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


async def test_a_body_that_never_ends(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "HTTP_BODY_S", 0.01)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    response = await client.post("/v1/chat/completions", content=pieces())
    assert response.status_code == 408
    assert response.json()["error"]["code"] == "request_too_slow"


async def test_a_model_of_a_name_without_end(
    client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    """It would be remembered, to be explained, and said again to whoever asked."""
    asked = {"model": "x" * 1_000_000, "messages": [{"role": "user", "content": "hi"}]}
    response = await client.post("/v1/chat/completions", json=asked)
    assert response.status_code == 404
    assert len(response.content) < 1000
    assert backend.asks == []


# --- The mesh ---------------------------------------------------------------------------------


async def test_what_can_be_read(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}
    assert (await client.get("/mesh/status")).json()["peers"] == []
    metrics = await client.get("/metrics")
    assert metrics.text == "hearth_requests_total 3.0\n"
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    listing = (await client.get("/v1/models")).json()
    assert [model["id"] for model in listing["data"]] == ["tiny", "Org/Big-GGUF:Q4_K_M"]
    one = (await client.get("/v1/models/Org/Big-GGUF:Q4_K_M")).json()
    assert one["object"] == "model"
    assert one["hearth"]["local"] is False


async def test_requests_are_explained(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    listed = (await client.get("/mesh/explanations")).json()
    assert listed == {"explanations": [{"request_id": "5f0c", "state": "open"}]}
    assert (await client.get("/mesh/explanations/chatcmpl-5f0c")).json()["request_id"] == "5f0c"
    assert (await client.get("/mesh/explanations/latest")).status_code == 200
    assert backend.explained == ["5f0c", None]
    unknown = await client.get("/mesh/explanations/00")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "request_unknown")
    odd = await client.get("/mesh/explanations/hello")
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "id")


async def test_inviting_and_joining(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    asked = {"ttl_s": 60, "uses": 2, "label": "Bo"}
    response = await client.post("/mesh/invites", json=asked, headers=AS_ADMIN)
    assert response.json()["token"] == "hearth1abc"
    assert backend.orders == [(60, 2, "Bo", True)]

    response = await client.post("/mesh/join", json={"token": "hearth1abc"}, headers=AS_ADMIN)
    assert response.json()["mesh_id"] == "m"
    response = await client.post("/mesh/join", json={"token": "junk"}, headers=AS_ADMIN)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "token_malformed"


async def test_listing_and_cancelling_invites(
    client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    asked = {"may_invite": False}
    await client.post("/mesh/invites", json=asked, headers=AS_ADMIN)
    assert backend.orders == [(86_400, 1, "", False)]
    listed = await client.get("/mesh/invites")
    assert listed.json() == {"invites": INVITES}
    for path, beginning in (("/mesh/invites", None), ("/mesh/invites/893A", "893a")):
        assert (await client.delete(path)).status_code == 401
        reply = await client.delete(path, headers=AS_ADMIN)
        assert reply.json() == {"cancelled": ["893a6f21cea98b58"]}
        assert backend.cancelled.pop() == beginning
    unknown = await client.delete("/mesh/invites/ff", headers=AS_ADMIN)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "invite_unknown")
    odd = await client.delete("/mesh/invites/all", headers=AS_ADMIN)
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "id")
    assert backend.cancelled == []


async def test_revoking_and_leaving(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    reply = await client.post("/mesh/revocations", json={"peer_id": PEER_ID}, headers=AS_ADMIN)
    assert reply.json()["peer_id"] == PEER_ID
    assert backend.revoked == [PeerId.parse(PEER_ID)]
    for bad in ({}, {"peer_id": "bea"}, {"peer_id": PEER_ID[:-1]}, {"peer_id": 1}):
        odd = await client.post("/mesh/revocations", json=bad, headers=AS_ADMIN)
        assert (odd.status_code, odd.json()["error"]["param"]) == (400, "peer_id")
    assert (await client.post("/mesh/leave", headers=AS_ADMIN)).json()["mesh_id"]
    assert backend.left


async def test_pausing_and_resuming(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    for asked, hand_back in (({}, False), ({"now": True}, True)):
        reply = (await client.post("/mesh/pause", json=asked, headers=AS_ADMIN)).json()
        assert reply["paused"] is True
        assert backend.pauses[-1] is hand_back
    odd = await client.post("/mesh/pause", json={"now": "yes"}, headers=AS_ADMIN)
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "now")
    reply = (await client.post("/mesh/resume", headers=AS_ADMIN)).json()
    assert reply["paused"] is False
    assert backend.pauses == []


@pytest.mark.parametrize(
    "path",
    [f"/mesh/{name}" for name in ("invites", "join", "leave", "pause", "resume", "revocations")],
)
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {ADMIN}"}],
    ids=["no-key", "wrong-key", "wrong-scheme"],
)
async def test_changing_the_mesh_needs_the_admin_token(
    client: httpx.AsyncClient, backend: ScriptedBackend, path: str, headers: dict[str, str]
) -> None:
    response = await client.post(path, json={"token": "hearth1abc"}, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert (backend.orders, backend.revoked, backend.left) == ([], [], False)
    assert backend.pauses == []


# --- The gate ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7711", 200),
        ("localhost", 200),
        ("[::1]:7711", 200),
        ("rebound.example:7711", 403),
        ("127.0.0.1.example", 403),
        ("192.0.2.7", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
async def test_on_loopback_the_host_must_be_this_machine(
    client: httpx.AsyncClient, host: str, status: int
) -> None:
    response = await client.get("/mesh/status", headers={"Host": host})
    assert response.status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:3000", 200), ("https://evil.example", 403), ("null", 403)],
)
async def test_on_loopback_pages_of_elsewhere_are_refused(
    client: httpx.AsyncClient, backend: ScriptedBackend, origin: str, status: int
) -> None:
    response = await client.post("/v1/chat/completions", json=CHAT, headers={"Origin": origin})
    assert response.status_code == status
    assert len(backend.asks) == (1 if status == 200 else 0)


async def test_elsewhere_everything_but_health_needs_a_key(backend: ScriptedBackend) -> None:
    async with client_of(backend, api_key="k", loopback=False) as client:
        client.headers["Host"] = "hearth.example"
        assert (await client.get("/health")).status_code == 200
        for path in ("/v1/models", "/metrics", "/mesh/status", "/mesh/explanations", "/nowhere"):
            assert (await client.get(path)).status_code == 401
        with_key = {"Authorization": "bearer k"}
        assert (await client.get("/mesh/status", headers=with_key)).status_code == 200
        assert (await client.get("/mesh/status", headers=AS_ADMIN)).status_code == 200
        response = await client.post("/mesh/invites", json={}, headers=with_key)
        assert response.status_code == 401, "the API key must not open the mesh"


def test_an_open_api_is_refused(backend: ScriptedBackend) -> None:
    for key in (None, ""):
        with pytest.raises(ConfigError):
            create_app(backend, admin_token=ADMIN, api_key=key, loopback=False)
