"""A node as the CLI meets it: the real HTTP API in front of a backend that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Self

from models.engine import FinishReason
from overlay.errors import RequestUnknown
from overlay.http.app import create_app
from overlay.http.backend import Answered, AnswerEvent, Ask, ModelListing, Text
from overlay.http.server import ApiServer
from tests.support.recorder import FRIEND_ID, PEER_ID, Recorder

ADMIN_TOKEN = "admin-token"
GONE_ID = "12D3KooWLvhh4MvBNTKRmxwKvuT2xXnPvqzV3sTQM9oNTFzA8bHX"

ANSWERED = Answered(
    reason=FinishReason.STOP,
    prompt_tokens=640,
    cached_tokens=612,
    completion_tokens=2,
    hearth={
        "served_by": FRIEND_ID,
        "served_by_name": "bea",
        "hops": 1,
        "route": "forwarded",
        "ttft_ms": 84.2,
        "saved_ms": 2100,
    },
)

STATUS: dict[str, Any] = {
    "peer_id": PEER_ID,
    "name": "laptop",
    "mesh_id": "5dsiD3bYcYrRrMGLmnsbHeEJ",
    "api": "http://127.0.0.1:7711",
    "listen": ["/ip4/127.0.0.1/tcp/7710"],
    "models": ["SmolLM2-135M-Instruct"],
    "peers": [
        {
            "peer_id": GONE_ID,
            "name": "carl",
            "state": "DOWN",
            "rtt_ms": None,
            "models": [],
            "cached_tokens": 0,
            "summary_blocks": 0,
            "link": None,
        },
        {
            "peer_id": FRIEND_ID,
            "name": "bea",
            "state": "UP",
            "rtt_ms": 3.21,
            "models": ["SmolLM2-135M-Instruct", "qwen3-1.7b"],
            "cached_tokens": 12_288,
            "summary_blocks": 384,
            "link": "dialled",
        },
    ],
    "cache": {
        "cells_used": 1203,
        "cells_total": 8192,
        "summary_blocks": 37,
        "prompt_tokens": 2000,
        "cached_tokens": 1440,
    },
    "requests": {"open": 0, "running": 1, "queued": 0, "served": 12},
}

#: One open, one used by a friend who may not invite others.
INVITES: list[dict[str, Any]] = [
    {
        "id": "893a6f21cea98b58",
        "label": "for Carl",
        "state": "open",
        "issued": "2030-01-01T00:00:00+00:00",
        "expires": "2030-01-02T00:00:00+00:00",
        "uses": 2,
        "joined": [],
        "may_invite": True,
    },
    {
        "id": "1f0c7a1e9b3d4c6f",
        "label": "",
        "state": "used up",
        "issued": "2029-12-31T00:00:00+00:00",
        "expires": "2030-01-01T00:00:00+00:00",
        "uses": 1,
        "joined": [{"peer_id": FRIEND_ID, "name": "bea"}],
        "may_invite": False,
    },
]

REQUEST_ID = "5f0c7a1e9b3d4c6f8a2e1d0b7c9f3a55"

#: A forwarded request whose first choice refused.
EXPLANATION: dict[str, Any] = {
    "request_id": REQUEST_ID,
    "model": "demo",
    "age_s": 12.0,
    "asked_by": None,
    "asked_by_name": None,
    "state": "answered",
    "decisions": [
        {
            "after_ms": 1.2,
            "choice": GONE_ID,
            "choice_name": "carl",
            "reason": "carl has 640 of 650 prompt tokens cached and costs 900 ms; …",
            "prompt_tokens": 650,
            "blind": False,
            "considered": 19,
            "candidates": [
                {
                    "peer_id": GONE_ID,
                    "name": "carl",
                    "self": False,
                    "cost_ms": 900.0,
                    "rtt_ms": 3.21,
                    "wait_ms": 40.0,
                    "prefill_ms": 100.0,
                    "decode_ms": 0.0,
                    "alpha": 1.25,
                    "later_ms": 0.0,
                    "match_tokens": 640,
                    "summary_age_s": 0.4,
                    "tokenizes_unlike": False,
                },
                {
                    "peer_id": PEER_ID,
                    "name": "laptop",
                    "self": True,
                    "cost_ms": 8900.0,
                    "rtt_ms": 0.0,
                    "wait_ms": 0.0,
                    "prefill_ms": 6500.0,
                    "decode_ms": 775.0,
                    "alpha": 1.25,
                    "later_ms": -20.0,
                    "match_tokens": 0,
                    "summary_age_s": None,
                    "tokenizes_unlike": False,
                },
            ],
            "error": {
                "code": "overloaded",
                "message": "a friend's node has 32 requests of yours open",
            },
        },
        {
            "after_ms": 9.7,
            "choice": FRIEND_ID,
            "choice_name": "bea",
            "reason": "no other node that serves this model can be asked.",
            "prompt_tokens": 650,
            "blind": True,
            "considered": 1,
            "candidates": [
                {
                    "peer_id": FRIEND_ID,
                    "name": "bea",
                    "self": False,
                    "cost_ms": 9900.0,
                    "rtt_ms": 3.21,
                    "wait_ms": 0.0,
                    "prefill_ms": 6500.0,
                    "decode_ms": 0.0,
                    "alpha": 1.25,
                    "later_ms": 0.0,
                    "match_tokens": 0,
                    "summary_age_s": None,
                    "tokenizes_unlike": True,
                }
            ],
            "error": None,
        },
    ],
    "actual": {
        "served_by": FRIEND_ID,
        "served_by_name": "bea",
        "route": "forwarded",
        "hops": 1,
        "prompt_tokens": 650,
        "cached_tokens": 639,
        "completion_tokens": 60,
        "estimated_match": 0,
        "match_error_tokens": 639,
        "ttft_ms": 84.2,
        "predicted_ttft_ms": 6503.2,
        "queue_ms": 0.3,
        "prefill_ms": 22.8,
        "decode_ms": 1180.0,
        "total_ms": 1270.0,
    },
    "error": None,
}

OVERVIEW: dict[str, Any] = {
    **{name: EXPLANATION[name] for name in ("request_id", "model", "age_s", "state")},
    **{name: EXPLANATION["actual"][name] for name in ("served_by", "served_by_name", "route")},
    "asked_by": None,
    "asked_by_name": None,
    "prompt_tokens": 650,
    "cached_tokens": 639,
    "estimated_match": 0,
    "ttft_ms": 84.2,
}


class Hold:
    """A step at which the answer stays until it is cancelled; ``reached`` says that it is there."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.cancelled = threading.Event()


Step = AnswerEvent | Exception | Hold | threading.Event | float


class FakeBackend(Recorder):
    """Answers each ask with the next script, which goes on from an event once that is set.

    Floats are pauses in seconds, for the eye only.
    """

    def __init__(self) -> None:
        super().__init__(
            [
                ModelListing(
                    "SmolLM2-135M-Instruct", ("demo",), "the demo model", True, 8192, 1_700_000_000
                ),
                ModelListing("qwen3-1.7b", (), "a larger model", False, 32_768, 1_700_000_001),
            ],
            INVITES,
        )
        self.scripts: list[Sequence[Step]] = []
        self.state: dict[str, Any] = dict(STATUS)

    async def ask(self, ask: Ask) -> AsyncGenerator[AnswerEvent, None]:
        self.asks.append(ask)
        script = self.scripts.pop(0) if self.scripts else (Text("Hel"), Text("lo."), ANSWERED)
        for step in script:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, threading.Event):
                await asyncio.to_thread(step.wait, 60)
            elif isinstance(step, Hold):
                step.reached.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    step.cancelled.set()
            else:
                yield step

    def status(self) -> dict[str, Any]:
        return self.state

    def explanation(self, beginning: str | None) -> dict[str, Any]:
        self.explained.append(beginning)
        if beginning is not None and not REQUEST_ID.startswith(beginning):
            raise RequestUnknown(f"this node knows no request {beginning}")
        return EXPLANATION

    def explanations(self) -> list[dict[str, Any]]:
        return [OVERVIEW, {**OVERVIEW, "request_id": "1" * 32, "asked_by": GONE_ID}]

    def metrics(self) -> bytes:
        return b""


class FakeNode:
    """A context manager: the API on a free port of 127.0.0.1, in a thread of its own."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.api_url = ""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away; idempotent."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        app = create_app(self.backend, admin_token=ADMIN_TOKEN, api_key=None, loopback=True)
        server = ApiServer(app, "127.0.0.1", 0)
        host, port = await server.start()
        self.api_url = f"http://{host}:{port}"
        self._ready.set()
        await self._stop.wait()
        await server.close()
