"""A client's call: asked of the backend, answered as one JSON object or as a stream of events."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from models.engine import FinishReason, TokenLogprob
from overlay.errors import EngineFailed, StreamReset
from overlay.http import shapes
from overlay.http.backend import REQUEST_ID_BYTES, Answered, Ask, Backend, Text, meant
from overlay.http.body import read_json
from overlay.http.choices import ask_all
from overlay.http.parse import Call
from overlay.http.shapes import SSE_DONE, SSE_KEEP_ALIVE, Shape, sse
from overlay.http.statuses import error_object
from overlay.limits import SSE_KEEP_ALIVE_S

_T = TypeVar("_T")

_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the tokens back
]


@dataclass(slots=True)
class Choice:
    """One of a request's answers, as far as it has come."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    answered: Answered | None = None


class AnswerEndpoint:
    """ASGI endpoint of ``/v1/chat/completions`` or ``/v1/completions``.

    Whatever ends it early (the client hangs up, the server stops, a bug) closes the backend's
    iterator before the endpoint returns. What fails before the first event is raised, to become
    a plain HTTP error; what fails later becomes the stream's last event.
    """

    def __init__(
        self,
        backend: Backend,
        parse: Callable[[object], Call],
        shape: Shape,
        keep_alive_s: float = SSE_KEEP_ALIVE_S,
    ) -> None:
        self._backend = backend
        self._parse = parse
        self._shape = shape
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self._parse(await read_json(Request(scope, receive)))
        call = replace(call, ask=self._identified(call.ask))
        if call.stream:
            await _until_hang_up(self._stream(call, send), receive)
            return
        response = await _until_hang_up(self._whole(call), receive)
        if response is not None:
            await response(scope, receive, send)

    async def _whole(self, call: Call) -> Response:
        head = self._head(call)
        choices = [Choice() for _ in range(call.n)]
        async with aclosing(ask_all(self._backend, call.ask, call.n)) as events:
            async for index, event in events:
                if isinstance(event, Text):
                    choices[index].pieces.append(event.text)
                    choices[index].logprobs += event.logprobs
                else:
                    choices[index].answered = event
        answers = [_intact(choice.answered) for choice in choices]
        told = call.ask.sampling.logprobs is not None
        dressed = [
            self._shape.choice(
                index,
                "".join(choice.pieces),
                self._shape.logprobs().dress(choice.logprobs) if told else None,
                answered.reason,
            )
            for index, (choice, answered) in enumerate(zip(choices, answers, strict=True))
        ]
        body = self._shape.whole(head, dressed)
        body |= {"usage": shapes.usage(answers), "hearth": answers[0].hearth}
        return Response(shapes.dump(body), media_type="application/json")

    async def _stream(self, call: Call, send: Send) -> None:
        stream = _EventStream(send)
        keeping_alive = asyncio.create_task(stream.keep_alive(self._keep_alive_s))
        try:
            await self._relay(call, stream)
        except Exception as error:
            if not stream.started:
                raise
            await stream.write(sse(error_object(error)[1]))
        finally:
            keeping_alive.cancel()
        await stream.end()

    async def _relay(self, call: Call, stream: _EventStream) -> None:
        shape = self._shape
        head = self._head(call)
        if call.include_usage:
            head["usage"] = None
        openings = [shape.opening(head, index) for index in range(call.n)]
        logprobs = [shape.logprobs() for _ in range(call.n)]
        answers: dict[int, Answered] = {}
        ending = b""
        async with aclosing(ask_all(self._backend, call.ask, call.n)) as events:
            async for index, event in events:
                dressed = None
                if isinstance(event, Answered):
                    answers[index] = _intact(event)
                    last = shape.last(head, index, event.reason) | {"hearth": event.hearth}
                    ending = openings[index] + sse(last)
                    if len(answers) == call.n:
                        break  # the last words go out together
                    await stream.write(ending)
                # There is no text while a character is incomplete.
                elif event.text or event.logprobs:
                    if call.ask.sampling.logprobs is not None:
                        dressed = logprobs[index].dress(event.logprobs)
                    piece = sse(shape.piece(head, index, event.text, dressed))
                    await stream.write(openings[index] + piece)
                else:
                    continue
                openings[index] = b""
        whole = [_intact(answers.get(index)) for index in range(call.n)]
        if call.include_usage:
            counted = {"usage": shapes.usage(whole), "hearth": whole[0].hearth}
            ending += sse(shape.usage(head) | counted)
        await stream.write(ending + SSE_DONE)

    def _identified(self, ask: Ask) -> Ask:
        """With an id of its own, and its model's, so that none answers that is also called so."""
        name = ask.model or self._backend.default_model()
        found = meant(self._backend.models(), name)
        model = name if found is None else found.name
        return replace(ask, model=model, request_id=secrets.token_bytes(REQUEST_ID_BYTES))

    def _head(self, call: Call) -> dict[str, Any]:
        assert call.ask.request_id is not None, "drawn when the call came"
        answer_id = self._shape.prefix + call.ask.request_id.hex()
        return {"id": answer_id, "created": int(time.time()), "model": call.ask.model}


class _EventStream:
    """A response of server-sent events; the first thing written brings the status line along."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._quiet = True
        self.started = False

    async def write(self, events: bytes) -> None:
        self._quiet = False
        if not self.started:
            self.started = True
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS}
            )
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def keep_alive(self, interval_s: float) -> None:
        """Write a comment after every interval in which nothing was written."""
        while True:
            self._quiet = True
            await asyncio.sleep(interval_s)
            if self._quiet:
                await self.write(SSE_KEEP_ALIVE)

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _intact(answered: Answered | None) -> Answered:
    if answered is None:
        raise EngineFailed("the answer broke off before its end: ask again")
    if answered.reason is FinishReason.CANCELLED:
        raise StreamReset("the node cancelled the answer before its end")
    return answered


async def _until_hang_up(work: Coroutine[Any, Any, _T], receive: Receive) -> _T | None:
    """Run ``work``; cancel it, and return None, when the client closes the connection first."""
    working = asyncio.create_task(work)
    listening = asyncio.create_task(_hang_up(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.wait({working, listening})


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
