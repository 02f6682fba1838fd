"""One connection with one peer, without its socket: admission, pings, budgets, counters.

Bytes and ticks go in; what to transmit and what to tell comes out, in order:

    opening --Hello both ways--> up --silence, Goodbye, nonsense--> down
       \\------refused, over budget, too slow------------------------^

Nothing follows a `Down` but, when this end said goodbye, the `Gone` that the peer's answer
brings. Closing before that would make TCP throw away what the peer has not read yet, if
something of the peer's was still under way to here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from overlay.admission.handshake import (
    Admitted,
    Finished,
    Handshake,
    Joined,
    LedgerChanged,
    Rejected,
    Reply,
    Role,
)
from overlay.admission.handshake import Effect as AdmissionEffect
from overlay.admission.refusals import Shown, refusal, shown
from overlay.errors import (
    HearthError,
    LimitExceeded,
    Malformed,
    NotAMember,
    RemoteProtocolError,
    Revoked,
    TimedOut,
    readable,
)
from overlay.identity.branches import Lineage, lineage_of
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    BATCH_FRAMES_MAX,
    PING_INTERVAL_S,
    STRANGER_MESSAGE_BYTES_MAX,
)
from overlay.transport.pings import DEAF_S, Pings
from overlay.wire.between_transports import DialBack, Moved, Relay, Relayed, Unrelayed
from overlay.wire.codec import decode, encode
from overlay.wire.messages import (
    Batch,
    Goodbye,
    Hello,
    JoinGrant,
    JoinRequest,
    Message,
    Ping,
    Pong,
    Refusal,
    StreamAck,
    TokenFrame,
)

#: A link on which nothing was heard for so long is down.
SILENCE_S: Final = 3 * PING_INTERVAL_S
#: Who dials has lost the link that it had with us, unless both began to dial at about the same
#: time: within a round trip and a half of each other, and the longest take about 2 s.
CROSSING_S: Final = 3.0


class Direction(StrEnum):
    """Who dialled."""

    OUTGOING = "outgoing"
    INCOMING = "incoming"


class LinkState(StrEnum):
    OPENING = "opening"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Transmit:
    data: bytes


@dataclass(frozen=True, slots=True)
class Up:
    """The peer is a member, and so are we to it."""

    peer: PeerId
    hello: Hello


@dataclass(frozen=True, slots=True)
class Received:
    message: Message
    size: int


@dataclass(frozen=True, slots=True)
class Measured:
    """The round trip, smoothed."""

    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Breach:
    """The peer, a member, broke the protocol; a Down follows."""

    reason: str


@dataclass(frozen=True, slots=True)
class Down:
    """The link is over. ``error``: what kept it from coming about, if it was refused."""

    reason: str
    error: HearthError | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The peer has read our Goodbye and sends nothing more."""


LinkEvent = (
    Transmit | Up | Received | Measured | Joined | LedgerChanged | Shown | Breach | Down | Gone
)


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """A link as people and routing see it. Round trips are None until the first is measured."""

    direction: Direction
    endpoint: str
    #: Through whom it goes; None: it is direct.
    relay: PeerId | None
    #: Smoothed.
    rtt_ms: float | None
    sent_messages: int
    sent_bytes: int


class Link:
    """``now`` is monotonic time, ``today`` Unix time, both in seconds."""

    def __init__(
        self,
        handshake: Handshake,
        endpoint: str,
        now: float,
        unwelcome: Callable[[], HearthError | None] = lambda: None,
        relay: PeerId | None = None,
    ) -> None:
        """``unwelcome``: why the peer is refused whatever it says, if it is; asked at both ends of
        the admission, since it may take its time. ``relay``: if not direct."""
        dialled = handshake.role is Role.DIALER
        self.direction = Direction.OUTGOING if dialled else Direction.INCOMING
        self.endpoint = endpoint
        self.relay = relay
        self.state = LinkState.OPENING
        #: Known once the link is up.
        self.peer: PeerId | None = None
        #: The peer's chain, own certificate first, and whom it leads by.
        self.certificates: tuple[bytes, ...] = ()
        self.lineage: Lineage = ()
        #: When the first certificate ends, in Unix time.
        self._expires_at = math.inf
        #: Where the peer sees this end, if this end dialled and the peer says so.
        self.observed = ""
        #: We said goodbye and the peer has not answered.
        self.leaving = False
        self._handshake = handshake
        self._unwelcome = unwelcome
        self._ticked = self._heard = self._begun = self._up_at = now
        self._pings = Pings(now)
        self._sent_messages = self._sent_bytes = 0

    @property
    def claimant(self) -> PeerId | None:
        """Whose key the peer has shown to have, member or not; None until it has said hello."""
        return self._handshake.claimant

    @property
    def whom(self) -> str:
        """Who is at the other end: its PeerId, or else the host that it is reached at."""
        host = self.endpoint.rpartition(":")[0] or self.endpoint
        return host if self.peer is None else str(self.peer)

    def status(self) -> LinkStatus:
        return LinkStatus(
            self.direction,
            self.endpoint,
            self.relay,
            self._pings.rtt_ms,
            self._sent_messages,
            self._sent_bytes,
        )

    def replaces(self, other: Link) -> bool:
        """Whether the peer, which dialled this one, has lost the other, whatever this end knows."""
        # A direct one and a relayed one may well be up at one time.
        alike = (self.relay is None) == (other.relay is None)
        if self.direction is not Direction.INCOMING or not alike:
            return False
        again = other.direction is Direction.INCOMING
        return again or self._begun - other._up_at > CROSSING_S

    def sent(self, size: int) -> None:
        """A message has left."""
        self._sent_messages += 1
        self._sent_bytes += size

    @property
    def unread_bytes(self) -> int:
        """What was sent since the latest ping that the peer has answered: it may lie here still."""
        return self._sent_bytes - self._pings.read_bytes

    def open(self) -> list[LinkEvent]:
        """Call once, first; whoever dialled speaks first."""
        if (unwelcome := self._unwelcome()) is not None:
            return self.refuse(unwelcome)
        return self._admission(self._handshake.open(), self._ticked)

    def receive(self, data: bytes, now: float, today: float) -> list[LinkEvent]:
        """A message arrived."""
        if self.state is LinkState.DOWN:
            return self._receive_leaving(data)
        self._heard = now
        try:
            if self.state is LinkState.OPENING:
                return self._receive_opening(data, now, today)
            return self._receive_up(decode(data), len(data), now)
        except RemoteProtocolError as error:
            last = Transmit(encode(refusal(error)))
            breach = [Breach(str(error))] if self.state is LinkState.UP else []
            return [last, *breach, *self.close(f"broke the protocol: {error}", error)]

    def heard(self, now: float) -> None:
        """Something has arrived that will be received later."""
        self._heard = now

    def silence_s(self, now: float) -> float:
        """For how long nothing has been heard."""
        return now - self._heard

    def refuse(self, error: HearthError) -> list[LinkEvent]:
        """End the link, and say why."""
        if self.state is LinkState.DOWN:
            return []
        # Who was a member has a moment to read that, as after a goodbye; who floods has not.
        self.leaving = isinstance(error, Revoked)
        return [Transmit(encode(refusal(error))), *self.close(str(error), error)]

    def tick(self, now: float, today: float, *, arriving: bool = False) -> list[LinkEvent]:
        """Ping where need be, and judge silence. Call it every PING_INTERVAL_S.

        ``arriving``: part of a message has come since, but not its end.

        Either end's ping is a sign of life of both, so that one does for both where nothing else
        is said. Each end goes by what it has heard itself.
        """
        # What came while this process was held up may not be read yet: no silence of the peer.
        held_up_s = max(0.0, now - self._ticked - PING_INTERVAL_S)
        self._heard = min(now, self._heard + held_up_s)
        self._pings.held_up(held_up_s, now)
        self._ticked = now
        if self.state is LinkState.OPENING:
            return self._admission(self._handshake.tick(now), now)
        if self.state is LinkState.DOWN:
            return []
        if today >= self._expires_at:
            return self.refuse(NotAMember(f"the membership of {self.peer} has expired"))
        if self.silence_s(now) > SILENCE_S and not arriving:
            return self.close(f"silent for {SILENCE_S:.0f} s")
        if self._pings.deaf(now):
            deaf = TimedOut(f"answers no ping for {DEAF_S:.0f} s")
            return self.close(str(deaf), deaf)
        silent = self.silence_s(now) >= PING_INTERVAL_S
        return [self._ping(now)] if silent or self._pings.due(now, self._sent_bytes) else []

    def say_goodbye(self, reason: str) -> list[LinkEvent]:
        """End the link on purpose."""
        if self.state is not LinkState.UP:
            return self.close(reason)
        self.leaving = True
        return [Transmit(encode(Goodbye(reason))), *self.close(reason)]

    def close(self, reason: str, error: HearthError | None = None) -> list[LinkEvent]:
        """The link ends here; idempotent."""
        if self.state is LinkState.DOWN:
            return []
        self.state = LinkState.DOWN
        return [Down(reason, error)]

    def _receive_opening(self, data: bytes, now: float, today: float) -> list[LinkEvent]:
        # Before decoding: a stranger's message must not cost more than it may.
        if len(data) > STRANGER_MESSAGE_BYTES_MAX:
            raise LimitExceeded(
                f"a message of more than {STRANGER_MESSAGE_BYTES_MAX} bytes before admission"
            )
        late = self._handshake.tick(now)
        effects = late or self._handshake.receive(decode(data), today)
        return self._admission(effects, now)

    def _receive_leaving(self, data: bytes) -> list[LinkEvent]:
        try:
            if not self.leaving or not isinstance(decode(data), Goodbye):
                return []
        except RemoteProtocolError:
            return []
        self.leaving = False
        return [Gone()]

    def _receive_up(self, message: Message, size: int, now: float) -> list[LinkEvent]:
        match message:
            case TokenFrame() | StreamAck():
                pass  # Most are: they need not be held against all that follows.
            case Batch():
                if message.count > BATCH_FRAMES_MAX:
                    raise LimitExceeded(f"a batch has at most {BATCH_FRAMES_MAX} frames")
            case Ping(nonce=nonce):
                return [Transmit(encode(Pong(nonce)))]
            case Pong(nonce=nonce):
                rtt_ms = self._pings.answered(nonce, now)
                return [] if rtt_ms is None else [Measured(rtt_ms)]
            case Goodbye(reason=reason):
                answer = Transmit(encode(Goodbye("goodbye")))
                farewell = f"said goodbye: {readable(reason)}"
                return [Received(message, size), answer, *self.close(farewell)]
            case Refusal(message=reason):
                return [*shown(message), *self.close(f"refused: {readable(reason)}")]
            case Hello() | JoinRequest() | JoinGrant():
                raise Malformed(f"a {type(message).__name__} after admission")
            case Relay() | Relayed() | Unrelayed() if self.relay is not None:
                raise Malformed("nothing is relayed over a link that is relayed itself")
            case Moved() if self.relay is None:
                raise Malformed("a direct link does not move to a direct one")
            case DialBack() if self.relay is not None or self.direction is Direction.OUTGOING:
                raise Malformed("only who dialled can be dialled back")
        return [Received(message, size)]

    def _admission(self, effects: Iterable[AdmissionEffect], now: float) -> list[LinkEvent]:
        events: list[LinkEvent] = []
        for effect in effects:
            match effect:
                case Reply(message=message):
                    events.append(Transmit(encode(message)))
                case Admitted() if (unwelcome := self._unwelcome()) is not None:
                    events += self.refuse(unwelcome)
                case Admitted(hello=hello, chain=chain):
                    self.state, self._up_at = LinkState.UP, now
                    self._pings.up(now)
                    self.peer, self.certificates = hello.peer_id, hello.certificates
                    self.observed = hello.observed
                    self.lineage = lineage_of(chain)
                    self._expires_at = min((each.expires_at for each in chain), default=math.inf)
                    events += [Up(hello.peer_id, hello), self._ping(now)]
                case Rejected(error=error):
                    events += self.close(str(error), error)
                case Finished():
                    events += self.close("has joined, and will dial again as a member")
                case Joined():
                    events += [effect, *self.close("joined")]
                case LedgerChanged() | Shown():
                    events.append(effect)
        return events

    def _ping(self, now: float) -> Transmit:
        return Transmit(encode(Ping(self._pings.sent(now, self._sent_bytes))))
