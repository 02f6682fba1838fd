"""A Backend that answers by a script, for the tests of the HTTP layer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from models.engine import FinishReason
from overlay.errors import RequestUnknown
from overlay.http.backend import Answered, AnswerEvent, Ask, ModelListing, Text
from tests.support.recorder import Recorder

ADMIN = "admin-token"

ANSWERED = Answered(
    reason=FinishReason.STOP,
    prompt_tokens=40,
    cached_tokens=32,
    completion_tokens=2,
    hearth={"served_by": "12D3KooWexample", "hops": 0, "route": "local", "ttft_ms": 12.5},
)

INVITES: list[dict[str, Any]] = [{"id": "893a6f21cea98b58", "label": "for Bo", "state": "open"}]

#: What happens, in order: an event to yield, an error to raise, or an Event to wait for.
Step = AnswerEvent | Exception | asyncio.Event


class ScriptedBackend(Recorder):
    """Answers every ask with ``script``; ``closed`` is set when an answer's iterator ends."""

    def __init__(self, *script: Step) -> None:
        listings = [
            ModelListing("tiny", ("small",), "a tiny model", True, 512, 1_700_000_000),
            ModelListing("Org/Big-GGUF:Q4_K_M", (), "a big model", False, 8192, 1_700_000_001),
        ]
        super().__init__(listings, INVITES)
        self.script = script or (Text("Hel"), Text(""), Text("lö!"), ANSWERED)
        self.closed = asyncio.Event()

    async def ask(self, ask: Ask) -> AsyncGenerator[AnswerEvent, None]:
        self.asks.append(ask)
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.closed.set()

    def status(self) -> dict[str, Any]:
        return {"peer_id": "12D3KooWexample", "peers": []}

    def explanation(self, beginning: str | None) -> dict[str, Any]:
        self.explained.append(beginning)
        if beginning == "00":
            raise RequestUnknown("this node knows no request 00")
        return {"request_id": "5f0c", "state": "open", "decisions": []}

    def explanations(self) -> list[dict[str, Any]]:
        return [{"request_id": "5f0c", "state": "open"}]

    def metrics(self) -> bytes:
        return b"hearth_requests_total 3.0\n"
