"""Links through other members, and the part of one who is such a member.

A link of a circuit is like any other, with `overlay.admission.circuit` where the others have a
socket: what it transmits is sealed, and goes to the relay as a message on the link with that.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zmq

from overlay.admission.circuit import (
    SEAL_BYTES,
    SEED_BYTES,
    Broken,
    Circuit,
    Pass,
    Ready,
    Unsealed,
    opens,
    receiver_of,
)
from overlay.admission.handshake import Role
from overlay.errors import HearthError, Overloaded, Unreachable, readable
from overlay.identity.branches import Branches, Lineage
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    CIRCUITS_OPENING_PER_RELAY_MAX,
    HANDSHAKE_S,
    RELAYED_MESSAGE_BYTES_MAX,
)
from overlay.transport.budgets import Handshakes
from overlay.transport.connection import Line
from overlay.transport.handover import RelayedLine
from overlay.transport.link import Link, LinkState
from overlay.transport.links import Links
from overlay.transport.pacing import Pace
from overlay.transport.relaying import Allowance
from overlay.wire.between_transports import Relay, Relayed, Unrelayed
from overlay.wire.codec import encode

log = logging.getLogger(__name__)

#: What waits leaves in bunches, so that a stream flat out does not wake the loop for each message.
_PAUSE_MIN_S: Final = 0.005
#: It may leave sooner than was thought: the relay has more room again.
_PAUSE_MAX_S: Final = 0.1


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
    def key(self) -> tuple[Role, PeerId]:
        return self.role, self.peer


class _Outlet:
    """What leaves through one relay, sealed in the order in which it does."""

    def __init__(self, line: Callable[[], Line | None]) -> None:
        self._line = line
        self._pace: Pace[_Way] = Pace(time.monotonic())
        #: It is sealed, and the link to the relay could not take it yet. A number is never used
        #: twice, so nothing else may leave before.
        self._sealed: tuple[_Way, bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(self, way: _Way, data: bytes) -> bool:
        """A message leaves in its turn; False: there is no room for it."""
        if not self._pace.put(way, data, time.monotonic()):
            return False
        if self._timer is None:
            self._leave()
        return True

    def say(self, way: _Way, data: bytes) -> bool:
        """The same, but before all that waits, if that may be."""
        now = time.monotonic()
        if self._sealed or not self._pace.may_say(len(data) + SEAL_BYTES, now):
            return self.send(way, data)
        if not self._seal(way, data) and self._timer is None:
            self._later()
        return True

    def shake_hands(self, way: _Way, payload: bytes) -> None:
        """What makes a circuit leaves at once: it is little, and what is lost holds all up."""
        self._pace.say(len(payload), time.monotonic())
        self._pass(way, payload)

    def room(self, way: _Way, percent: int) -> None:
        """See `Pace.room`."""
        self._pace.room(way, percent, time.monotonic())

    def waits(self, way: _Way) -> bool:
        """Whether something has not left yet."""
        return self._pace.waits(way) or (self._sealed is not None and self._sealed[0] is way)

    def close(self, way: _Way) -> None:
        """What waits will not leave. Idempotent."""
        self._pace.close(way)
        if self._sealed and self._sealed[0] is way:
            self._sealed = None

    def idle(self, now: float) -> bool:
        """Whether it may be forgotten."""
        return self._timer is None and self._pace.idle(now)

    def _leave(self) -> None:
        """Send what may leave, and come back for the rest."""
        self._timer = None
        if self._sealed and self._pass(*self._sealed):
            self._sealed = None
        while not self._sealed and (next_ := self._pace.take(time.monotonic())):
            self._seal(*next_)
        self._later()

    def _later(self) -> None:
        wait_s = 0.0 if self._sealed else self._pace.wait_s(time.monotonic())
        if wait_s is not None:
            loop = asyncio.get_running_loop()
            pause_s = min(max(wait_s, _PAUSE_MIN_S), _PAUSE_MAX_S)
            self._timer = loop.call_later(pause_s, self._leave)

    def _seal(self, way: _Way, data: bytes) -> bool:
        payload = way.circuit.seal(data)
        if self._pass(way, payload):
            return True
        self._sealed = way, payload
        return False

    def _pass(self, way: _Way, payload: bytes) -> bool:
        line = self._line()
        return line is not None and line.transmit(encode(Relay(way.peer, payload)))


class Circuits:
    """``relays``: whether this node passes on for others at all. ``new_link`` takes this node's
    role, the relay and the peer. ``on_end`` is told of the peer and the relay of each circuit that
    this node dialled, when it is over, and whether it came about. ``lineage``: who let a member in,
    if it is known to be one."""

    def __init__(
        self,
        me: NodeKey,
        links: Links,
        new_link: Callable[[Role, PeerId, PeerId], Link],
        on_end: Callable[[PeerId, PeerId, bool], None],
        lineage: Callable[[PeerId], Lineage | None],
        *,
        relays: bool,
    ) -> None:
        self.relays = relays
        self.allowance = Allowance()
        self._me = me
        self._links = links
        self._new_link = new_link
        self._on_end = on_end
        self._lineage = lineage
        #: By the heads of the peer's branch and of the relay's, as if each pair were an address.
        self._handshakes = Handshakes()
        #: By relay, and then by role and peer.
        self._ways: dict[PeerId, dict[tuple[Role, PeerId], _Way]] = {}
        #: By relay. They outlive the ways: a relay remembers, too, what it has passed on of late.
        self._outlets: dict[PeerId, _Outlet] = {}

    def dial(self, peer: PeerId, relay: PeerId) -> None:
        """Try to reach a peer through a relay."""
        way = self._begin(Role.DIALER, relay, peer)
        self._outlet(relay).shake_hands(way, way.circuit.open())

    def receive(self, sender: PeerId, message: Relay | Relayed | Unrelayed) -> None:
        """From a peer with a direct link."""
        match message:
            case Relay(peer=peer, payload=payload):
                self._pass_on(sender, peer, payload)
            case Relayed(peer=peer, payload=payload, room=room):
                self._arrived(sender, peer, payload, room)
            case Unrelayed(peer=peer, message=reason):
                self._lost(sender, readable(reason), peer)

    def relay_lost(self, relay: PeerId) -> None:
        """There is no direct link to the relay any more."""
        self._lost(relay, "the link to the relay is down")

    def tick(self, now: float) -> None:
        """Open again what is not answered, and give up what is no link in time.

        Call it every second or so.
        """
        for way in [way for ways in self._ways.values() for way in ways.values()]:
            if way.line is not None:
                continue
            if now >= way.begun + HANDSHAKE_S:
                self._end(way, f"no answer within {HANDSHAKE_S:.0f} s")
            elif way.role is Role.DIALER:
                # The peer may have had no place for it, or the link to the relay no room.
                self._outlet(way.relay).shake_hands(way, way.circuit.open())
        for relay in [relay for relay, outlet in self._outlets.items() if outlet.idle(now)]:
            del self._outlets[relay]

    # --- As the relay -------------------------------------------------------------------------

    def _pass_on(self, sender: PeerId, peer: PeerId, payload: bytes) -> None:
        try:
            if not self.relays:
                raise Unreachable("the relay's owner lets it pass nothing on")
            line = self._links.direct(peer)
            if line is None or peer == sender:
                raise Unreachable(f"the relay has no link to {peer}")
            now = time.monotonic()
            self.allowance.take(sender, peer, len(payload), now, head=self._links.head(sender))
            room = self.allowance.room(sender, now, head=self._links.head(peer))
            if not line.transmit(encode(Relayed(sender, payload, room))):
                raise Overloaded(f"the link between the relay and {peer} is stuck")
        except HearthError as error:
            back = self._links.direct(sender)
            if back is not None:
                back.transmit(encode(Unrelayed(peer, error.code, str(error))))

    # --- As an end ----------------------------------------------------------------------------

    def _begin(self, role: Role, relay: PeerId, peer: PeerId) -> _Way:
        circuit = Circuit(role, self._me, peer, secrets.token_bytes(SEED_BYTES))
        way = _Way(role, relay, peer, circuit, time.monotonic())
        self._ways.setdefault(relay, {})[way.key] = way
        return way

    def _outlet(self, relay: PeerId) -> _Outlet:
        outlet = self._outlets.get(relay)
        if outlet is None:
            outlet = self._outlets[relay] = _Outlet(lambda: self._links.direct(relay))
        return outlet

    def _arrived(self, relay: PeerId, peer: PeerId, payload: bytes, room: int) -> None:
        role = receiver_of(payload)
        if role is None or peer == self._me.peer_id:
            return
        way = self._ways.get(relay, {}).get((role, peer))
        if opens(payload) and not (way and way.circuit.is_opened_by(payload)):
            way = self._opened(relay, peer, way)
        if way is None:
            return
        self._outlet(relay).room(way, room)
        for effect in way.circuit.receive(payload):
            match effect:
                case Pass(payload=answer):
                    self._outlet(relay).shake_hands(way, answer)
                case Ready():
                    self._ready(way)
                case Unsealed(data=data):
                    assert way.line is not None, "a circuit is ready before it carries anything"
                    self._links.receive(way.line, data)
                case Broken(reason=reason):
                    self._end(way, reason)

    def _opened(self, relay: PeerId, peer: PeerId, old: _Way | None) -> _Way | None:
        places = Branches(CIRCUITS_OPENING_PER_RELAY_MAX)
        opening = [
            way.peer
            for way in self._ways.get(relay, {}).values()
            if way.role is Role.LISTENER
            and (way.line is None or way.line.link.state is not LinkState.UP)
        ]
        for each in opening:
            places.seat(each, self._let_in(each, relay))
        lineage = self._let_in(peer, relay)
        full = places.seat(peer, lineage)
        # To answer an Open takes as long as four other messages, and a link a millisecond or two.
        # A relay may make up those of others: what is held against these counts for its branch.
        heads = f"{(*lineage, peer)[0]} through {self._links.head(relay)}"
        if full is not None or not self._handshakes.admit(heads, time.monotonic()):
            log.debug("a circuit with %s through %s is one too many", peer, relay)
            return None
        if old is not None:
            self._end(old, "replaced by a new connection")
        return self._begin(Role.LISTENER, relay, peer)

    def _let_in(self, peer: PeerId, relay: PeerId) -> Lineage:
        """Who let a peer in; the relay may have made up whoever is not known to be a member."""
        lineage = self._lineage(peer)
        return (self._links.head(relay), peer) if lineage is None else lineage

    def _ready(self, way: _Way) -> None:
        link = self._new_link(way.role, way.relay, way.peer)
        outlet = self._outlet(way.relay)

        def send(data: bytes) -> BaseException | None:
            # What is too long for others, too, is as if the queue were full: the peer can have
            # what comes later.
            fits = len(data) <= RELAYED_MESSAGE_BYTES_MAX
            return None if fits and outlet.send(way, data) else zmq.Again()

        def say(data: bytes) -> BaseException | None:
            return None if outlet.say(way, data) else zmq.Again()

        way.line = RelayedLine(link, send, self._links, say, lambda: outlet.waits(way))
        way.line.over.add_done_callback(lambda _: outlet.close(way))
        way.line.gone.add_done_callback(lambda _: self._forget(way))
        way.line.carry_out(link.open())

    def _lost(self, relay: PeerId, reason: str, peer: PeerId | None = None) -> None:
        """Nothing gets through the relay, or not to one peer."""
        for way in list(self._ways.get(relay, {}).values()):
            if peer in (None, way.peer):
                self._end(way, reason)

    def _end(self, way: _Way, reason: str) -> None:
        if way.line is None:
            log.debug("no way to %s through %s: %s", way.peer, way.relay, reason)
        else:
            way.line.close(reason)
            way.line.let_go()
        self._forget(way)

    def _forget(self, way: _Way) -> None:
        ways = self._ways.get(way.relay, {})
        if ways.get(way.key) is way:
            del ways[way.key]
            if not ways:
                del self._ways[way.relay]
            self._outlet(way.relay).close(way)
            if way.role is Role.DIALER:
                self._on_end(way.peer, way.relay, way.line is not None)
