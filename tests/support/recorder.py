"""What a Backend of the tests does with all that is no question: it notes it, and says yes."""

from __future__ import annotations

from typing import Any

from overlay.errors import InviteUnknown, TokenMalformed
from overlay.http.backend import Ask, ModelListing
from overlay.identity.peer_id import PeerId

PEER_ID = "12D3KooWGjxpr1kTTs4Dh2DgdhhQ5NpF9RnFJLDUBDWXJeMC4oWM"
FRIEND_ID = "12D3KooWRBhwfeP2Y4TCx1SM6s9rUoHhR5STiGwxBhgFRcw3UERE"


class Recorder:
    """``listings``: the models that can be asked for. ``invited``: the invites there are."""

    def __init__(self, listings: list[ModelListing], invited: list[dict[str, Any]]) -> None:
        self.listings = listings
        self.invited = invited
        self.asks: list[Ask] = []
        #: Invites that were asked for.
        self.orders: list[tuple[int, int, str, bool]] = []
        self.cancelled: list[str | None] = []
        self.revoked: list[PeerId] = []
        self.joined: list[str] = []
        self.left = False
        #: Of each pause, whether requests under way were handed back; empty: not paused.
        self.pauses: list[bool] = []
        #: Beginnings of ids that were asked for; None is the latest.
        self.explained: list[str | None] = []

    def models(self) -> list[ModelListing]:
        return self.listings

    def default_model(self) -> str:
        return self.listings[0].name if self.listings else "lost"

    def invite(
        self, ttl_s: int, uses: int, label: str, *, may_invite: bool = True
    ) -> dict[str, Any]:
        self.orders.append((ttl_s, uses, label, may_invite))
        return {"token": "hearth1abc", "expires": "2030-01-01T00:00:00Z", "uses": uses, "id": "1f"}

    def invites(self) -> list[dict[str, Any]]:
        return self.invited

    def cancel_invites(self, beginning: str | None) -> list[str]:
        ids = [str(invite["id"]) for invite in self.invited]
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
            raise TokenMalformed("this is no join token: one begins with hearth1")
        self.joined.append(token)
        return {"mesh_id": "m", "inviter": FRIEND_ID, "name": "bea"}

    def pause(self, *, hand_back: bool) -> dict[str, Any]:
        self.pauses.append(hand_back)
        since = "2030-01-01T00:00:00+00:00"
        return {"paused": True, "paused_since": since, "open_guest_requests": 0 if hand_back else 2}

    def resume(self) -> dict[str, Any]:
        self.pauses.clear()
        return {"paused": False, "paused_since": None, "open_guest_requests": 0}
