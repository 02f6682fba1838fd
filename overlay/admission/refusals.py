"""Why a link does not come about, or ends: errors as the message that tells the peer, and back."""

from __future__ import annotations

from dataclasses import dataclass

from overlay.errors import HearthError, Revoked, from_code, readable
from overlay.wire.messages import Refusal


@dataclass(frozen=True, slots=True)
class Shown:
    """The peer refuses for this revocation, it says: a record, not checked yet."""

    record: bytes


def refusal(error: HearthError) -> Refusal:
    """What tells the peer of ``error``, with the evidence if there is any."""
    return Refusal(error.code, str(error), error.evidence if isinstance(error, Revoked) else b"")


def refused_with(message: Refusal) -> HearthError:
    """The error that a peer refuses with."""
    return from_code(message.code, readable(message.message))


def shown(message: Refusal) -> list[Shown]:
    """The evidence in a refusal."""
    return [Shown(message.evidence)] if message.evidence else []
