"""What the HTTP layer needs of a node. `overlay.node.Node` provides it; tests give their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from models.engine import FinishReason, Prompt, Sampling, TokenLogprob, goes_by
from overlay.identity.peer_id import PeerId

#: A request's name in the whole mesh, drawn at random.
REQUEST_ID_BYTES: Final = 16


class Route(StrEnum):
    """``local`` keeps the prompt on this machine."""

    MESH = "mesh"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a client of this node. ``model`` None: the node's default."""

    model: str | None
    prompt: Prompt
    sampling: Sampling
    route: Route = Route.MESH
    #: Put the explanation into the reply's ``hearth`` object.
    explain: bool = False
    #: 16 bytes that no other request has; None: the node draws some.
    request_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Text that may be shown now.

    ``logprobs``, if asked for, are of tokens whose text may still be held back.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is whole. ``hearth`` is the reply's ``hearth`` object, ready for JSON."""

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    hearth: dict[str, Any]


AnswerEvent = Text | Answered


@dataclass(frozen=True, slots=True)
class ModelListing:
    """A model that can be asked for: here (``local``) or at a peer."""

    name: str
    #: Other names that it answers to, in lower case.
    aliases: tuple[str, ...]
    description: str
    local: bool
    context_length: int
    created_s: int


def meant(listings: Iterable[ModelListing], name: str) -> ModelListing | None:
    """The model that a client calls ``name``, if it is listed.

    A friend's file may have a name that is another one of a model of ours, which goes first. Among
    friends' models, what is called so goes before what is also called so.
    """
    found = [listing for listing in listings if goes_by(name, listing.name, listing.aliases)]
    return min(found, key=lambda it: (not it.local, not goes_by(name, it.name, ())), default=None)


class Backend(Protocol):
    """The node, as HTTP sees it. All methods raise HearthError subclasses."""

    def ask(self, ask: Ask) -> AsyncGenerator[AnswerEvent, None]:
        """Stream an answer, ending with Answered. Closing the iterator cancels everywhere.

        So does cancelling the task that waits in it. What goes wrong is raised by the iteration.
        """

    def models(self) -> list[ModelListing]:
        """The models that can be asked for now, the default one first."""

    def default_model(self) -> str:
        """The id of the default one, even if it cannot be asked for just now. Raises NoRoute."""

    def status(self) -> dict[str, Any]:
        """The object of ``/mesh/status`` and ``hearth status --json``."""

    def explanation(self, beginning: str | None) -> dict[str, Any]:
        """Why a request went where it went; ``beginning`` of its id, or None for the latest.

        Raises RequestUnknown, or InvalidRequest if there are several.
        """

    def explanations(self) -> list[dict[str, Any]]:
        """What can be explained, in brief: own clients' requests, latest first, then peers'."""

    def invite(
        self, ttl_s: int, uses: int, label: str, *, may_invite: bool = True
    ) -> dict[str, Any]:
        """``{"token", "expires" (RFC 3339), "uses", "id", "label", "may_invite"}``."""

    def invites(self) -> list[dict[str, Any]]:
        """The invites of this node, the latest first, without their secrets."""

    def cancel_invites(self, beginning: str | None) -> list[str]:
        """Cancel the invite whose id begins so, or all open ones; their ids.

        Raises InviteUnknown, or InvalidRequest if there are several.
        """

    def revoke(self, peer: PeerId) -> dict[str, Any]:
        """Revoke a member; ``{"peer_id", "name", "by": PeerId, "at" (RFC 3339)}``."""

    async def join(self, token: str) -> dict[str, Any]:
        """Join the token's mesh; ``{"mesh_id", "inviter": PeerId, "name"}``."""

    async def leave(self) -> dict[str, Any]:
        """Leave the mesh and found another; ``{"mesh_id"}`` of the one that was left."""

    def pause(self, *, hand_back: bool) -> dict[str, Any]:
        """Take no more requests of other members; ``hand_back``: end those under way, too.

        Returns the ``lending`` of `status`.
        """

    def resume(self) -> dict[str, Any]:
        """Take requests of other members again; the same object."""

    def metrics(self) -> bytes:
        """Prometheus text format."""
