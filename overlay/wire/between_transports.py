"""The messages that peers' transports say to each other, as `overlay.wire.messages` has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from overlay.identity.peer_id import PeerId

# --- Relaying ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Relay:
    """Pass ``payload`` on to ``peer``; see `overlay.admission.circuit`. Answered only by Unrelayed.

    Only a node with a link of its own to the peer does.
    """

    KIND: ClassVar[int] = 14
    peer: PeerId
    payload: bytes


@dataclass(frozen=True, slots=True)
class Relayed:
    """``peer`` had the sender pass this on, the sender says.

    ``room``: how much more it would pass on to ``peer`` at once, in percent of the most.
    """

    KIND: ClassVar[int] = 15
    peer: PeerId
    payload: bytes
    room: int = 100


@dataclass(frozen=True, slots=True)
class Unrelayed:
    """What was to be passed on to ``peer`` was not; ``code`` is of `overlay.errors`."""

    KIND: ClassVar[int] = 16
    peer: PeerId
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The last message on a relayed link: what follows comes over a direct one, which is up."""

    KIND: ClassVar[int] = 17


# --- Addresses --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DialBack:
    """Of a dialer: try whether I answer at this port of the host that you see me at."""

    KIND: ClassVar[int] = 18
    port: int


@dataclass(frozen=True, slots=True)
class DialedBack:
    """Answers DialBack: ``reached``: the node that asked, and no other, answers there."""

    KIND: ClassVar[int] = 19
    port: int
    reached: bool
