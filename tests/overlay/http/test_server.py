"""A real server on a real port, driven by the openai package."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import openai
import pytest

from overlay.errors import (
    AddressInUse,
    ConfigError,
    ContextLengthExceeded,
    EngineBusy,
    EngineFailed,
    HearthError,
    ModelNotFound,
)
from overlay.http import server
from overlay.http.app import create_app
from overlay.http.backend import AnswerEvent, Ask, Route, Text
from overlay.http.connection import ApiConnection
from overlay.http.server import ApiServer
from overlay.limits import HTTP_PIECES_MAX
from tests.overlay.http.scripted import ADMIN, ANSWERED, ScriptedBackend

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def serving(backend: ScriptedBackend, api_key: str | None = None) -> AsyncIterator[str]:
    app = create_app(backend, admin_token=ADMIN, api_key=api_key, loopback=api_key is None)
    server = ApiServer(app, "127.0.0.1", 0)
    host, port = await server.start()
    try:
        yield f"http://{host}:{port}/v1"
    finally:
        await server.close()


@asynccontextmanager
async def sdk(
    backend: ScriptedBackend, api_key: str | None = None, presented: str = "any"
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serving(backend, api_key) as url,
        openai.AsyncOpenAI(base_url=url, api_key=presented, max_retries=0) as client,
    ):
        yield client


async def test_chat() -> None:
    backend = ScriptedBackend()
    async with sdk(backend) as client:
        reply = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, extra_body={"hearth": {"route": "local"}}
        )
    assert reply.choices[0].message.content == "Hellö!"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 32
    assert reply.model_extra == {"hearth": ANSWERED.hearth}
    assert backend.asks[0].route is Route.LOCAL


async def test_chat_stream() -> None:
    async with sdk(ScriptedBackend()) as client:
        stream = await client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    *spoken, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in spoken) == "Hellö!"
    assert spoken[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.total_tokens == 42
    assert last.model_extra == {"hearth": ANSWERED.hearth}


async def test_completions_whole_and_streamed() -> None:
    async with sdk(ScriptedBackend()) as client:
        whole = await client.completions.create(model="tiny", prompt="Once")
        stream = await client.completions.create(model="tiny", prompt="Once", stream=True)
        pieces = [chunk.choices[0].text async for chunk in stream]
    assert whole.choices[0].text == "".join(pieces) == "Hellö!"


async def test_models() -> None:
    async with sdk(ScriptedBackend()) as client:
        names = [model.id async for model in client.models.list()]
        assert names == ["tiny", "Org/Big-GGUF:Q4_K_M"]
        for name in names:
            assert (await client.models.retrieve(name)).id == name
        assert (await client.models.retrieve("Small")).id == "tiny", "by its alias"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("unknown")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("raised", "expected", "code"),
    [
        (ModelNotFound("nobody serves it"), openai.NotFoundError, "model_not_found"),
        (ContextLengthExceeded("too long"), openai.BadRequestError, "context_length_exceeded"),
        (EngineBusy("full"), openai.InternalServerError, "engine_busy"),
        (EngineFailed("crashed"), openai.InternalServerError, "engine_failed"),
    ],
)
async def test_errors_raise_the_sdks_own(
    raised: HearthError, expected: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    async with sdk(ScriptedBackend(raised)) as client:
        with pytest.raises(expected) as caught:
            await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=stream)
    assert caught.value.code == code
    assert str(raised) in str(caught.value)


async def test_a_bad_parameter_is_named_to_the_sdk() -> None:
    async with sdk(ScriptedBackend()) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=9)
    assert caught.value.param == "temperature"


async def test_an_error_in_mid_stream_raises_in_the_sdk() -> None:
    backend = ScriptedBackend(Text("Hel"), EngineFailed("the engine died"))
    async with sdk(backend) as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="the engine died"):
            async for _ in stream:
                pass


async def test_the_key() -> None:
    async with sdk(ScriptedBackend(), api_key="k", presented="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    async with sdk(ScriptedBackend(), api_key="k", presented="k") as client:
        assert (await client.models.list()).data


async def test_the_first_token_does_not_wait_for_the_second() -> None:
    go_on = asyncio.Event()
    async with sdk(ScriptedBackend(Text("Hel"), go_on, ANSWERED)) as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        texts = []
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content)
            if "Hel" in texts:
                go_on.set()  # else the answer would never end
    assert texts == ["", "Hel", None]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_closes_the_answer(stream: bool) -> None:
    asked = asyncio.Event()

    class Noticing(ScriptedBackend):
        async def ask(self, ask: Ask) -> AsyncGenerator[AnswerEvent, None]:
            asked.set()
            async for event in super().ask(ask):
                yield event

    backend = Noticing(Text("Hel"), asyncio.Event())
    async with serving(backend) as url:
        async with httpx.AsyncClient() as client:
            body = {"messages": MESSAGES, "stream": stream}
            calling = asyncio.create_task(client.post(f"{url}/chat/completions", json=body))
            await asked.wait()
            calling.cancel()
            await asyncio.wait({calling})
        await backend.closed.wait()


async def test_answers_are_dated() -> None:
    async with serving(ScriptedBackend()) as url, httpx.AsyncClient() as client:
        dated = parsedate_to_datetime((await client.get(f"{url}/models")).headers["date"])
    assert abs(datetime.now(UTC) - dated) < timedelta(minutes=1)


async def test_closing_waits_for_open_answers() -> None:
    go_on = asyncio.Event()
    app = create_app(
        ScriptedBackend(Text("Hel"), go_on, ANSWERED),
        admin_token=ADMIN,
        api_key=None,
        loopback=True,
    )
    server = ApiServer(app, "127.0.0.1", 0)
    host, port = await server.start()
    url = f"http://{host}:{port}/v1/chat/completions"
    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", url, json={"messages": MESSAGES, "stream": True}) as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        go_on.set()
        rest = [line async for line in lines]
        await closing
    assert "data: [DONE]" in rest


async def test_closing_cuts_answers_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.http.server.HTTP_CLOSE_S", 0.05)
    backend = ScriptedBackend(Text("Hel"), asyncio.Event())
    async with httpx.AsyncClient() as client:
        async with serving(backend) as url:
            body = {"messages": MESSAGES, "stream": True}
            request = client.build_request("POST", f"{url}/chat/completions", json=body)
            response = await client.send(request, stream=True)
        assert backend.closed.is_set()
        with pytest.raises(httpx.RemoteProtocolError):
            await response.aread()


async def test_a_port_in_use_is_named() -> None:
    app = create_app(ScriptedBackend(), admin_token=ADMIN, api_key=None, loopback=True)
    first = ApiServer(app, "127.0.0.1", 0)
    _, port = await first.start()
    second = ApiServer(app, "127.0.0.1", port)
    try:
        with pytest.raises(AddressInUse, match=str(port)):
            await second.start()
    finally:
        await second.close()
        await first.close()


async def test_an_address_of_another_machine_is_refused() -> None:
    app = create_app(ScriptedBackend(), admin_token=ADMIN, api_key=None, loopback=True)
    for host in ("192.0.2.7", "no-such-host.invalid"):
        with pytest.raises(ConfigError, match=host):
            await ApiServer(app, host, 0).start()


async def test_signal_handlers_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    async with serving(ScriptedBackend()):
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


async def said(reader: asyncio.StreamReader) -> bytes:
    """What the server says until it ends the connection, however it does that."""
    heard = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1 << 16):
            heard += piece
    return heard


async def test_idle_connections_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.http.server.HTTP_CONNECTIONS_MAX", 8)
    monkeypatch.setattr("overlay.http.connection.HTTP_CONNECTIONS_MAX", 8)
    async with AsyncExitStack() as stack:
        url = httpx.URL(await stack.enter_async_context(serving(ScriptedBackend())))
        connections = []
        for number in range(20):
            connection = await asyncio.open_connection(url.host, url.port)
            stack.callback(connection[1].close)
            if number % 2:
                connection[1].write(b"GET /health HTTP/1.1\r\nHost: 127")
            connections.append(connection)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/models")).status_code == 200
        # The first ones have given way.
        assert await said(connections[0][0]) == b""


async def test_an_answer_under_way_gives_way_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.http.connection.HTTP_CONNECTIONS_MAX", 8)
    go_on = asyncio.Event()
    async with AsyncExitStack() as stack:
        backend = ScriptedBackend(Text("Hel"), go_on, ANSWERED)
        url = httpx.URL(await stack.enter_async_context(serving(backend)))
        client = await stack.enter_async_context(httpx.AsyncClient())
        body = {"messages": MESSAGES, "stream": True}
        calling = client.stream("POST", f"{url}/chat/completions", json=body)
        lines = (await stack.enter_async_context(calling)).aiter_lines()
        await anext(lines)
        for _ in range(20):
            _, writer = await asyncio.open_connection(url.host, url.port)
            stack.callback(writer.close)
        assert (await client.get(f"{url}/models")).status_code == 200
        go_on.set()
        assert "data: [DONE]" in [line async for line in lines]


async def test_when_all_places_are_taken_the_sdk_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("overlay.http.server.HTTP_CONNECTIONS_MAX", 2)
    monkeypatch.setattr("overlay.http.connection.HTTP_CONNECTIONS_MAX", 2)
    go_on = asyncio.Event()
    async with sdk(ScriptedBackend(Text("Hel"), go_on, ANSWERED)) as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        with pytest.raises(openai.InternalServerError) as caught:
            await client.models.list()
        assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
        assert caught.value.response.headers["Retry-After"] == "1"
        go_on.set()
        assert [chunk async for chunk in stream]
        assert (await client.models.list()).data, "there is a place again"


#: More than the systems at both ends of a connection keep for whoever does not read.
FLOOD = [Text("x" * (1 << 20))] * 32
STREAM = (
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 30\r\n\r\n"
    b'{"prompt": "Hi","stream":true}'
)


async def test_who_never_reads_its_stream_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.http.connection.HTTP_STALL_S", 0.01)
    backend = ScriptedBackend(*FLOOD, asyncio.Event())
    async with serving(backend) as served:
        url = httpx.URL(served)
        with socket.create_connection((url.host, url.port)) as connection:
            connection.send(STREAM)
            await backend.closed.wait()


async def test_who_reads_on_keeps_its_place() -> None:
    go_on = asyncio.Event()
    app = create_app(
        ScriptedBackend(*FLOOD, go_on, ANSWERED), admin_token=ADMIN, api_key=None, loopback=True
    )
    server = ApiServer(app, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*await server.start(), limit=2 << 20)
    (connection,) = server._server.server_state.connections
    assert isinstance(connection, ApiConnection)
    writer.write(STREAM)
    await reader.readuntil(b"x")
    assert connection._stalled is not None, "the flood waits for the reader"
    for _ in FLOOD:
        await reader.readuntil(b"\n\n")
    assert connection._stalled is None
    go_on.set()
    await reader.readuntil(b"[DONE]")
    writer.close()
    await server.close()


async def test_nonsense_after_a_refusal_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever can connect may send it: a traceback for each time would fill the disk."""
    async with serving(ScriptedBackend()) as served:
        url = httpx.URL(served)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            b"POST /mesh/leave HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert b"401" in await reader.readline()
        writer.write(b"this is no chunk\r\n")
        await said(reader)
        writer.close()
    assert not caplog.records


@pytest.mark.parametrize("key", [None, "secret"], ids=["read", "refused"])
async def test_a_body_in_crumbs_is_not_read_to_its_end(key: str | None) -> None:
    """Also where its answer is out, as that of who has no key."""
    async with serving(ScriptedBackend(), key) as url:
        at = httpx.URL(url)
        reader, writer = await asyncio.open_connection(at.host, at.port)
        head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked"
        writer.write(f"{head}\r\n\r\n".encode() + b"1\r\na\r\n" * (2 * HTTP_PIECES_MAX))
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.close()


async def test_a_body_in_pieces_is_read() -> None:
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}'

    async def pieces() -> AsyncIterator[bytes]:
        for byte in body:
            yield bytes([byte])

    async with serving(ScriptedBackend()) as url, httpx.AsyncClient() as client:
        answer = await client.post(f"{url}/chat/completions", content=pieces())
    assert answer.status_code == 200


async def test_bodies_take_so_much_memory_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connections there are, each with a body that does not end."""
    monkeypatch.setattr(server, "HTTP_BODIES_BYTES_MAX", 100_000)
    monkeypatch.setattr(server, "_SHARE_BYTES", 10_000)
    large = {"prompt": "x" * 50_000}
    async with serving(ScriptedBackend()) as url, httpx.AsyncClient(base_url=url) as client:
        at = httpx.URL(url)
        _, writer = await asyncio.open_connection(at.host, at.port)
        head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 90000\r\n\r\n"
        writer.write(head.encode() + b"x" * 80_000)

        async def refused() -> bool:
            answer = await client.post("/completions", json=large)
            return answer.status_code == 503 and "Retry-After" in answer.headers

        async with asyncio.timeout(10):
            while not await refused():
                pass
        assert (await client.post("/completions", json={"prompt": "hi"})).status_code == 200
        writer.close()
        async with asyncio.timeout(10):
            while await refused():
                pass


async def test_where_the_system_has_no_descriptor_left_the_log_has_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """asyncio tries again at once, hundreds of times, and would log a traceback for each."""
    full = OSError(errno.EMFILE, "Too many open files")
    async with serving(ScriptedBackend()):
        loop = asyncio.get_running_loop()
        for error in (full, full, ArithmeticError()):
            loop.call_exception_handler({"message": "accept() failed", "exception": error})
    known, bug = caplog.records
    assert known.message == f"the API lets nobody in: {os.strerror(errno.EMFILE)}"
    assert known.exc_info is None
    assert bug.levelname == "ERROR"
