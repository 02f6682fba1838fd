"""Links through other members, and the part of one who is such a member.

A link of a circuit is like any other, with `overlay.admission.circuit` where the others have a
socket: what it transmits is sealed, and goes to the relay as a message on the link with that.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from overlay.admission.circuit import (
    SEED_BYTES,
    Broken,
    Circuit,
    Pass,
    Ready,
    Unsealed,
    opens,
    receiver_of,
)
from overlay.admission.handshake import Role, readable
from overlay.errors import HearthError, Overloaded, Unreachable
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    CIRCUITS_OPENING_PER_RELAY_MAX,
    HANDSHAKE_S,
    RELAYED_MESSAGE_BYTES_MAX,
)
from overlay.transport.connection import Line
from overlay.transport.link import Link, LinkState
from overlay.transport.links import Links
from overlay.transport.relaying import Allowance
from overlay.wire.between_transports import Relay, Relayed, Unrelayed
from overlay.wire.codec import encode

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Way:
    role: Role
    relay: PeerId
    peer: PeerId
    circuit: Circuit
    begun: float
    #: Once the circuit is ready.
    line: Line | None = None

    @property
    def key(self) -> tuple[Role, PeerId, PeerId]:
        return self.role, self.relay, self.peer


class Circuits:
    """``relays``: whether this node passes on for others at all. ``new_link`` takes this node's
    role, the relay and the peer. ``on_end`` is told of the peer and the relay of each circuit that
    this node dialled, when it is over or came to nothing."""

    def __init__(
        self,
        me: NodeKey,
        links: Links,
        new_link: Callable[[Role, PeerId, PeerId], Link],
        on_end: Callable[[PeerId, PeerId], None],
        *,
        relays: bool,
    ) -> None:
        self.relays = relays
        self.allowance = Allowance()
        self._me = me
        self._links = links
        self._new_link = new_link
        self._on_end = on_end
        self._ways: dict[tuple[Role, PeerId, PeerId], _Way] = {}

    def dial(self, peer: PeerId, relay: PeerId) -> None:
        """Try to reach a peer through a relay."""
        way = self._begin(Role.DIALER, relay, peer)
        self._pass(way, way.circuit.open())

    def receive(self, sender: PeerId, message: Relay | Relayed | Unrelayed) -> None:
        """From a peer with a direct link."""
        match message:
            case Relay(peer=peer, payload=payload):
                self._pass_on(sender, peer, payload)
            case Relayed(peer=peer, payload=payload):
                self._arrived(sender, peer, payload)
            case Unrelayed(peer=peer, message=reason):
                self._lost(sender, readable(reason), peer)

    def relay_lost(self, relay: PeerId) -> None:
        """There is no direct link to the relay any more."""
        self._lost(relay, "the link to the relay is down")

    def tick(self, now: float) -> None:
        """Give up what has not become a link in time. Call it every second or so."""
        for way in list(self._ways.values()):
            if way.line is None and now >= way.begun + HANDSHAKE_S:
                self._end(way, f"no answer within {HANDSHAKE_S:.0f} s")

    # --- As the relay -------------------------------------------------------------------------

    def _pass_on(self, sender: PeerId, peer: PeerId, payload: bytes) -> None:
        try:
            if not self.relays:
                raise Unreachable("the relay's owner lets it pass nothing on")
            line = self._links.direct(peer)
            if line is None or peer == sender:
                raise Unreachable(f"the relay has no link to {peer}")
            self.allowance.take(sender, peer, len(payload), time.monotonic())
            if not line.transmit(encode(Relayed(sender, payload))):
                raise Overloaded(f"the link between the relay and {peer} is stuck")
        except HearthError as error:
            back = self._links.direct(sender)
            if back is not None:
                back.transmit(encode(Unrelayed(peer, error.code, str(error))))

    # --- As an end ----------------------------------------------------------------------------

    def _begin(self, role: Role, relay: PeerId, peer: PeerId) -> _Way:
        circuit = Circuit(role, self._me, peer, secrets.token_bytes(SEED_BYTES))
        way = _Way(role, relay, peer, circuit, time.monotonic())
        self._ways[way.key] = way
        return way

    def _arrived(self, relay: PeerId, peer: PeerId, payload: bytes) -> None:
        role = receiver_of(payload)
        if role is None or peer == self._me.peer_id:
            return
        way = self._ways.get((role, relay, peer))
        if opens(payload) and not (way and way.circuit.is_opened_by(payload)):
            way = self._opened(relay, peer, way)
        if way is None:
            return
        for effect in way.circuit.receive(payload):
            match effect:
                case Pass(payload=answer):
                    self._pass(way, answer)
                case Ready():
                    self._ready(way)
                case Unsealed(data=data):
                    assert way.line is not None, "a circuit is ready before it carries anything"
                    way.line.receive([data])
                case Broken(reason=reason):
                    self._end(way, reason)

    def _opened(self, relay: PeerId, peer: PeerId, old: _Way | None) -> _Way | None:
        opening = [
            way
            for way in self._ways.values()
            if way.role is Role.LISTENER
            and way.relay == relay
            and (way.line is None or way.line.link.state is not LinkState.UP)
        ]
        if len(opening) >= CIRCUITS_OPENING_PER_RELAY_MAX:
            log.debug("a circuit through %s is one too many", relay)
            return None
        if old is not None:
            self._end(old, "replaced by a new connection")
        return self._begin(Role.LISTENER, relay, peer)

    def _ready(self, way: _Way) -> None:
        link = self._new_link(way.role, way.relay, way.peer)
        way.line = Line(link, lambda data: self._send(way, data), self._links)
        way.line.gone.add_done_callback(lambda _: self._forget(way))
        way.line.carry_out(link.open())

    def _send(self, way: _Way, data: bytes) -> BaseException | None:
        if len(data) > RELAYED_MESSAGE_BYTES_MAX:
            # As if the queue were full: the peer cannot have this one, but others.
            return zmq.Again()
        # A number is never used twice, so a frame that does not leave is the end of the circuit.
        if self._pass(way, way.circuit.seal(data)):
            return None
        return BrokenPipeError()

    def _pass(self, way: _Way, payload: bytes) -> bool:
        line = self._links.direct(way.relay)
        return line is not None and line.transmit(encode(Relay(way.peer, payload)))

    def _lost(self, relay: PeerId, reason: str, peer: PeerId | None = None) -> None:
        """Nothing gets through the relay, or not to one peer."""
        for way in list(self._ways.values()):
            if way.relay == relay and peer in (None, way.peer):
                self._end(way, reason)

    def _end(self, way: _Way, reason: str) -> None:
        if way.line is None:
            log.debug("no way to %s through %s: %s", way.peer, way.relay, reason)
        else:
            way.line.close(reason)
            way.line.let_go()
        self._forget(way)

    def _forget(self, way: _Way) -> None:
        if self._ways.get(way.key) is way:
            del self._ways[way.key]
            if way.role is Role.DIALER:
                self._on_end(way.peer, way.relay)
