"""Everything that can go wrong, by who can mend it.

Each leaf class has a stable ``code``: a slug that crosses the wire, appears in the HTTP error
body and in ``--json`` output. ``str(error)`` is the one sentence that a person reads; it says
what happened and what to do next. HTTP statuses and exit codes are tables at the edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

from overlay.printable import is_printable

#: Characters of a peer's words that reach a user's screen, and are kept.
_WORDS_CHARS_MAX: Final = 300
#: Names that one sentence has: members may make up thousands, and errors are sent, and kept.
_NAMES_MAX: Final = 32


class HearthError(Exception):
    """Base of all errors that Hearth raises on purpose. Anything else is a bug."""

    code: ClassVar[str] = "internal"
    #: After how long trying again makes sense, where that is known; 0: it is not.
    retry_after_s: float = 0.0


# --- The operator mends these -----------------------------------------------------------------


class ConfigError(HearthError):
    """A setting, file or flag is wrong."""

    code = "config"


class AddressInUse(ConfigError):
    """The port is taken by another process."""

    code = "address-in-use"


class HomeInUse(ConfigError):
    """Another running node uses this home."""

    code = "home-in-use"


class NodeNotRunning(ConfigError):
    """The command needs a running node, and none runs in this home."""

    code = "node-not-running"


class ModelFileInvalid(ConfigError):
    """The model file is missing, truncated, altered or no GGUF."""

    code = "model-file-invalid"


class DownloadFailed(ConfigError):
    """A model could not be fetched."""

    code = "download-failed"


class IdentityError(HearthError):
    """Keys, certificates, invites: who may do what."""

    code = "identity"


class TokenMalformed(IdentityError):
    """The join token has a typo, or is no join token at all."""

    code = "token-malformed"


class InviteExpired(IdentityError):
    """The invite's time is over."""

    code = "invite-expired"


class InviteUsedUp(IdentityError):
    """The invite has been used as often as it allows."""

    code = "invite-used-up"


class InviteUnknown(IdentityError):
    """The inviter does not know this invite: cancelled, or of another mesh."""

    code = "invite-unknown"


class NotAMember(IdentityError):
    """The peer has shown no valid membership certificate of this mesh."""

    code = "not-a-member"


class Revoked(IdentityError):
    """A membership was revoked, by the founder or by somebody who stands above in its chain."""

    code = "revoked"

    def __init__(self, message: str, evidence: bytes = b"") -> None:
        super().__init__(message)
        #: The record that proves it; see `overlay.identity.revocations`.
        self.evidence = evidence


class AlreadyMember(IdentityError):
    """This home belongs to a mesh with other members already."""

    code = "already-member"


class MeshMismatch(IdentityError):
    """The peer belongs to another mesh."""

    code = "mesh-mismatch"


# --- Protocol ---------------------------------------------------------------------------------


class LocalProtocolError(HearthError):
    """We called a state machine wrongly: our bug."""

    code = "local-protocol"


class RemoteProtocolError(HearthError):
    """A peer broke the protocol."""

    code = "remote-protocol"


class Malformed(RemoteProtocolError):
    """Bytes that are no valid message."""

    code = "malformed"


class BadSignature(RemoteProtocolError):
    """A signature or proof does not verify."""

    code = "bad-signature"


class LimitExceeded(RemoteProtocolError):
    """More bytes, messages, items or time than the peer may use."""

    code = "limit-exceeded"


class UnsupportedVersion(RemoteProtocolError):
    """No protocol version in common."""

    code = "unsupported-version"


# --- Peers ------------------------------------------------------------------------------------


class PeerError(HearthError):
    """A peer cannot do, now, what we ask."""

    code = "peer"


class Unreachable(PeerError):
    """No link to the peer."""

    code = "unreachable"


class TimedOut(PeerError):
    """The peer did not answer in time."""

    code = "timed-out"


class Overloaded(PeerError):
    """The peer refuses more work for now."""

    code = "overloaded"


class QuotaUsedUp(PeerError):
    """The peer has computed for us as much as its owner grants, for now."""

    code = "quota-used-up"


class Paused(PeerError):
    """The peer's owner lends it to nobody for now."""

    code = "paused"


class StreamReset(PeerError):
    """The peer broke off a stream."""

    code = "stream-reset"


# --- Routing and generation -------------------------------------------------------------------


class RoutingError(HearthError):
    """No place for the request."""

    code = "routing"


class NoRoute(RoutingError):
    """No reachable node serves the model."""

    code = "no-route"

    @classmethod
    def to_any_model(cls, few: str) -> NoRoute:
        """Nobody serves any; ``few``, in brackets, says why, if that is known."""
        return cls(
            f"no model is served here or by a reachable peer{few}: start one with "
            "`hearth up --model demo`"
        )


class RequestUnknown(RoutingError):
    """This node remembers no request of that id, so it cannot explain it."""

    code = "request-unknown"


class GenerationError(HearthError):
    """The engine could not produce an answer."""

    code = "generation"


class InvalidRequest(GenerationError):
    """A parameter of the request is missing, unknown or out of range."""

    code = "invalid-request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        #: The parameter at fault, as the client spelled it (``messages[0].content``).
        self.param = param


class ModelNotFound(GenerationError):
    """Nobody serves a model of that name."""

    code = "model-not-found"

    @classmethod
    def named(cls, name: str, served: Iterable[str], few: str = "") -> ModelNotFound:
        """``served`` is there instead; ``few``, in brackets, says why no more, if that is known."""
        there_is = listed(sorted(served)) or "none"
        return cls(f"no node serves a model named {name!r}{few}; there is: {there_is}")


class ContextLengthExceeded(GenerationError):
    """The prompt does not fit into the model's context."""

    code = "context-length-exceeded"


class EngineBusy(GenerationError):
    """The engine's queue is full."""

    code = "engine-busy"


class EngineFailed(GenerationError):
    """llama.cpp reported an error, or its process died."""

    code = "engine-failed"


# --- Clients of the HTTP API ------------------------------------------------------------------


class AccessError(HearthError):
    """The client may not do this over HTTP."""

    code = "access"


class InvalidApiKey(AccessError):
    """The key in ``Authorization: Bearer`` is missing or wrong."""

    code = "invalid-api-key"


class Forbidden(AccessError):
    """A web page of elsewhere, or a host name of elsewhere, tried to use the local API."""

    code = "forbidden"


def _all_subclasses(cls: type[HearthError]) -> list[type[HearthError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found.extend(_all_subclasses(sub))
    return found


#: code -> class, for errors that arrive over a wire.
BY_CODE: dict[str, type[HearthError]] = {cls.code: cls for cls in _all_subclasses(HearthError)}


def from_code(code: str, message: str) -> HearthError:
    """Rebuild an error from its wire form; an unknown code becomes a plain ``PeerError``.

    OpenAI's spelling of codes, which HTTP uses, is understood too: ``model_not_found``.
    """
    return BY_CODE.get(code.replace("_", "-"), PeerError)(message)


def readable(words: str) -> str:
    """What a peer says, fit for logs and terminals."""
    return "".join(char for char in words[:_WORDS_CHARS_MAX] if is_printable(char))


def listed(names: Sequence[str]) -> str:
    """The names, or of too many the first ones, and how many more there are."""
    more = len(names) - _NAMES_MAX
    return ", ".join(names[:_NAMES_MAX]) + (f", and {more:,} more" if more > 0 else "")
