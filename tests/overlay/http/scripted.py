"""A Backend that answers by a script, for the tests of the HTTP layer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from models.engine import FinishReason
from overlay.errors import InviteUnknown, RequestUnknown, TokenMalformed
from overlay.http.backend import Answered, AnswerEvent, Ask, ModelListing, Text
from overlay.identity.peer_id import PeerId

ADMIN = "admin-token"

ANSWERED = Answered(
    reason=FinishReason.STOP,
    prompt_tokens=40,
    cached_tokens=32,
    completion_tokens=2,
    hearth={"served_by": "12D3KooWexample", "hops": 0, "route": "local", "ttft_ms": 12.5},
)

PEER_ID = "12D3KooWGjxpr1kTTs4Dh2DgdhhQ5NpF9RnFJLDUBDWXJeMC4oWM"
INVITES: list[dict[str, Any]] = [{"id": "893a6f21cea98b58", "label": "for Bo", "state": "open"}]

#: What happens, in order: an event to yield, an error to raise, or an Event to wait for.
Step = AnswerEvent | Exception | asyncio.Event


class ScriptedBackend:
    """Answers every ask with ``script``; ``closed`` is set when an answer's iterator ends."""

    def __init__(self, *script: Step) -> None:
        self.script = script or (Text("Hel"), Text(""), Text("lö!"), ANSWERED)
        self.asks: list[Ask] = []
        self.orders: list[tuple[int, int, str, bool]] = []
        self.cancelled: list[str | None] = []
        self.revoked: list[PeerId] = []
        self.left = False
        #: Of each pause, whether requests under way were handed back; empty: not paused.
        self.pauses: list[bool] = []
        #: Beginnings of ids that were asked for; None is the latest.
        self.explained: list[str | None] = []
        self.closed = asyncio.Event()
        self.listings = [
            ModelListing("tiny", ("small",), "a tiny model", True, 512, 1_700_000_000),
            ModelListing("Org/Big-GGUF:Q4_K_M", (), "a big model", False, 8192, 1_700_000_001),
        ]

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

    def models(self) -> list[ModelListing]:
        return self.listings

    def default_model(self) -> str:
        return self.listings[0].name if self.listings else "lost"

    def status(self) -> dict[str, Any]:
        return {"peer_id": "12D3KooWexample", "peers": []}

    def explanation(self, beginning: str | None) -> dict[str, Any]:
        self.explained.append(beginning)
        if beginning == "00":
            raise RequestUnknown("this node knows no request 00")
        return {"request_id": "5f0c", "state": "open", "decisions": []}

    def explanations(self) -> list[dict[str, Any]]:
        return [{"request_id": "5f0c", "state": "open"}]

    def invite(
        self, ttl_s: int, uses: int, label: str, *, may_invite: bool = True
    ) -> dict[str, Any]:
        self.orders.append((ttl_s, uses, label, may_invite))
        return {"token": "hearth1abc", "expires": "2030-01-01T00:00:00Z", "uses": uses, "id": "1f"}

    def invites(self) -> list[dict[str, Any]]:
        return INVITES

    def cancel_invites(self, beginning: str | None) -> list[str]:
        ids = [str(invite["id"]) for invite in INVITES]
        found = [each for each in ids if each.startswith(beginning or "")]
        if not found:
            raise InviteUnknown(f"there is no invite {beginning}")
        self.cancelled.append(beginning)
        return found

    def revoke(self, peer: PeerId) -> dict[str, Any]:
        self.revoked.append(peer)
        return {"peer_id": str(peer), "name": "bea", "by": PEER_ID, "at": "2030-01-01T00:00:00Z"}

    async def leave(self) -> dict[str, Any]:
        self.left = True
        return {"mesh_id": "5dsiD3bYcYrRrMGLmnsbHeEJ"}

    async def join(self, token: str) -> dict[str, Any]:
        if not token.startswith("hearth1"):
            raise TokenMalformed("this is no join token")
        return {"mesh_id": "m", "inviter": "12D3KooWexample", "name": "ada"}

    def pause(self, *, hand_back: bool) -> dict[str, Any]:
        self.pauses.append(hand_back)
        since = "2030-01-01T00:00:00+00:00"
        return {"paused": True, "paused_since": since, "open_guest_requests": 0 if hand_back else 2}

    def resume(self) -> dict[str, Any]:
        self.pauses.clear()
        return {"paused": False, "paused_since": None, "open_guest_requests": 0}

    def metrics(self) -> bytes:
        return b"hearth_requests_total 3.0\n"
