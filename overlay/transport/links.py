"""Which links a node has, and to whom; what they say is carried out here.

Two peers that dial each other at once have two links; messages go over the one that came first
for as long as it lasts, so their order is kept. But a direct link takes over from a relayed one.
When the link that messages go over ends, the peer's other links end with it: what was under way may
be lost, and nobody would be told.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from overlay.admission.handshake import LedgerChanged
from overlay.admission.refusals import Shown, refusal
from overlay.complaints import Complaints
from overlay.errors import (
    ConfigError,
    HearthError,
    LimitExceeded,
    Overloaded,
    Revoked,
    TimedOut,
)
from overlay.identity.branches import Branches, Lineage
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations
from overlay.limits import ALL_UNREAD_BYTES_MAX, MEMBERS_MAX
from overlay.transport.connection import Line, heaviest
from overlay.transport.handover import Handover, RelayedLine, lossy
from overlay.transport.link import (
    Breach,
    Direction,
    Down,
    Gone,
    LinkEvent,
    LinkState,
    LinkStatus,
    Measured,
    Received,
    Transmit,
    Up,
)
from overlay.transport.reading import Reading
from overlay.wire.between_transports import DialBack, DialedBack, Moved, Relay, Relayed, Unrelayed
from overlay.wire.codec import encode
from overlay.wire.messages import Batch, Goodbye, Hello, Message
from overlay.wire.weight import weight

log = logging.getLogger(__name__)

_FAILED: Final = "this node failed to handle a message"


#: What peers say to each other's transports.
BetweenTransports = Relay | Relayed | Unrelayed | DialBack | DialedBack


class LinkObserver(Protocol):
    """Told of links, on the loop, in the order in which things happen."""

    def link_up(self, peer: PeerId, hello: Hello, lineage: Lineage) -> None:
        """There is a link to a member; before this there was none. ``lineage``: who let it in."""

    def link_measured(self, peer: PeerId, rtt_ms: float) -> None:
        """The round trip of the link that is in use, each time that it is measured."""

    def link_down(self, peer: PeerId, reason: str) -> None:
        """The last link to the peer is gone."""

    def received(self, peer: PeerId, message: Message, size: int) -> None:
        """A message of gossip or forwarding, or a Goodbye, the last of the link in use.

        It came in ``size`` bytes. Of a Batch each part is told by itself.
        """

    def revocation_shown(self, by: str, record: bytes) -> None:
        """A peer refused to link, for this revocation; it has not been checked yet.

        ``by``: its PeerId, or else its address.
        """


class Links:
    """An `Exchange`. ``on_change`` is told of a peer whose links became more or fewer,
    ``on_excess`` of one that sends too much, and why it is, ``on_breach`` of one that broke the
    protocol, and how; ``on_request`` gets the messages that are for the transport."""

    def __init__(
        self,
        observer: LinkObserver,
        on_ledger: Callable[[], None],
        on_change: Callable[[PeerId], None],
        on_excess: Callable[[PeerId, str], None],
        on_breach: Callable[[PeerId, str], None],
        on_request: Callable[[Line, PeerId, BetweenTransports], None],
    ) -> None:
        self._observer: LinkObserver | None = observer
        self._on_ledger = on_ledger
        self._on_change = on_change
        self._on_breach = on_breach
        self._on_request = on_request
        #: All connections, also those that are not admitted yet.
        self._lines: dict[Line, None] = {}
        self._complaints = Complaints()
        #: Those that are up, by peer: the direct ones, oldest first, and then the relayed ones.
        self._up: dict[PeerId, list[Line]] = {}
        #: Of those to which there is a link: no branch's inventions keep others out.
        self._branches = Branches(MEMBERS_MAX)
        self._handover = Handover(self._tell)
        self._reading = Reading(self._read, on_excess, self._up)

    # --- What there is ------------------------------------------------------------------------

    def line(self, peer: PeerId) -> Line | None:
        """The line to send on."""
        lines = self._up.get(peer)
        return lines[0] if lines else None

    def direct(self, peer: PeerId) -> Line | None:
        """The line to relay on."""
        line = self.line(peer)
        return None if line is None or line.link.relay is not None else line

    def head(self, peer: PeerId) -> PeerId:
        """Of the branch of one that has a link: whom the founder let in, that let it in."""
        return (*(self._branches.lineage(peer) or ()), peer)[0]

    def nearest(self) -> list[PeerId]:
        """Who has a direct line, by its round trip; branches take turns."""
        rtts_ms = {
            peer: math.inf if link.rtt_ms is None else link.rtt_ms
            for peer, link in self.statuses().items()
            if link.relay is None
        }
        nearest = sorted(rtts_ms, key=lambda peer: (rtts_ms[peer], peer))
        return self._branches.in_turns(nearest)

    def dialled(self) -> dict[PeerId, Line]:
        """The direct lines that this node dialled, one per peer."""
        return {
            peer: line
            for peer, lines in self._up.items()
            for line in lines
            if line.link.relay is None and line.link.direction is Direction.OUTGOING
        }

    def has_incoming(self, peer: PeerId) -> bool:
        """Whether the peer has dialled this node and reached it without a relay."""
        return any(
            line.link.direction is Direction.INCOMING and line.link.relay is None
            for line in self._up.get(peer, ())
        )

    def statuses(self) -> dict[PeerId, LinkStatus]:
        """The links in use, one per peer."""
        return {peer: lines[0].link.status() for peer, lines in self._up.items()}

    def slowed(self) -> set[PeerId]:
        """Peers of which something waits until their budgets allow to read it."""
        return self._reading.slowed()

    # --- What the transport does with them ----------------------------------------------------

    def tick(self) -> None:
        now, today = time.monotonic(), time.time()
        for line in list(self._lines):
            line.carry_out(line.tick(now, today))
            if line.link.relay is not None and line.link.peer is not None:
                self._hand_over(line.link.peer)
        self._end_deaf()

    def hang_up(self, peer: PeerId, reason: str) -> list[Line]:
        """Say goodbye to a peer; the lines that it had."""
        return _end({line: line.link.say_goodbye(reason) for line in self._up.get(peer, ())})

    def refuse(self, peer: PeerId, error: HearthError) -> None:
        """End all links to a peer, and say why."""
        _end({line: line.link.refuse(error) for line in self._up.get(peer, ())})

    def refuse_revoked(self, revocations: Revocations) -> list[PeerId]:
        """End the links with members whose chain is void now, and tell them why."""
        ends = {}
        refused: dict[PeerId, None] = {}
        for peer, lines in self._up.items():
            for line in lines:
                try:
                    revocations.check(line.link.certificates)
                except Revoked as error:
                    ends[line] = line.link.refuse(error)
                    refused[peer] = None
        _end(ends)
        return list(refused)

    def close(self, reason: str) -> list[Line]:
        """Say goodbye to all; the observer hears nothing from here on."""
        self._observer = None
        # Those that need others to carry their goodbye come first.
        lines = sorted(self._lines, key=lambda line: line.link.relay is None)
        return _end({line: line.link.say_goodbye(reason) for line in lines})

    # --- Exchange -----------------------------------------------------------------------------

    def opened(self, line: Line) -> None:
        self._lines[line] = None

    def receive(self, line: Line, data: bytes) -> None:
        peer = line.link.peer
        if peer is None or line.link.state is not LinkState.UP:
            self._read(line, data, time.monotonic())
        else:
            self._reading.arrived(line, peer, data)

    def charge(self, peer: PeerId, messages: float) -> None:
        """What the peer said last counts as so many messages more."""
        self._reading.charge(peer, messages)

    def _read(self, line: Line, data: bytes, now: float) -> None:
        self.carry_out(line, line.link.receive(data, now, time.time()))

    def carry_out(self, line: Line, events: list[LinkEvent]) -> None:
        try:
            for event in events:
                self._carry_out(line, event)
        except ConfigError as error:
            # A full disk, say. What was to follow must not happen: a grant, above all.
            now = time.monotonic()
            self._complaints.about("this node", "cannot write to its disk", str(error), now)
            why = Overloaded("the node cannot write to its disk: tell its owner")
            line.say(encode(refusal(why)))
            line.link.close(_FAILED)
            self._line_down(line, Down(_FAILED))
        except Exception:
            # Our bug: it must not end the reading of everybody's messages, and what was to follow
            # must not happen.
            log.exception("an event of the link to %s could not be handled", line.link.endpoint)
            line.link.close(_FAILED)
            self._line_down(line, Down(_FAILED))

    def _carry_out(self, line: Line, event: LinkEvent) -> None:
        match event:
            case Received():
                if line.link.peer is not None:
                    self._received(line, line.link.peer, event)
            case Transmit(data=data):
                line.say(data)
            case Up(peer=peer, hello=hello):
                self._line_up(line, peer, hello)
            case Measured(rtt_ms=rtt_ms):
                measured = line.link.peer
                if self._observer and measured is not None and self.line(measured) is line:
                    self._observer.link_measured(measured, rtt_ms)
            case LedgerChanged():
                self._on_ledger()
            case Shown(record=record):
                if self._observer is not None:
                    self._observer.revocation_shown(line.link.whom, record)
            case Breach(reason=reason):
                if line.link.peer is not None:
                    self._on_breach(line.link.peer, reason)
            case Down():
                self._line_down(line, event)
            case Gone():
                line.let_go()

    def _received(self, line: Line, peer: PeerId, event: Received) -> None:
        extra = weight(event.message) - 1
        if extra:
            self.charge(peer, extra)
        match event.message:
            case Relay() | Relayed() | Unrelayed() | DialBack() | DialedBack() as message:
                self._on_request(line, peer, message)
            case Moved():
                assert isinstance(line, RelayedLine), "over a direct link it is malformed"
                line.moved_in = True
                self._hand_over(peer)
            case Goodbye() if line is not self.line(peer):
                pass  # It says so on each of its links: a copy of its home may have had this one.
            case _ if line.link.relay is None and self._handover.keep(
                peer, self._up.get(peer, ()), event
            ):
                pass
            case _:
                self._tell(peer, event)

    def _tell(self, peer: PeerId, event: Received) -> None:
        message = event.message
        for part in message.parts() if isinstance(message, Batch) else (message,):
            # What was told may have ended the link.
            if self._observer is not None and peer in self._up:
                self._observer.received(peer, part, event.size)

    def _line_up(self, line: Line, peer: PeerId, hello: Hello) -> None:
        for old in list(self._up.get(peer, ())):
            # Else what is to be sent might go where nobody receives it any more.
            if line.link.replaces(old.link):
                old.close("replaced by a new connection")
        # With its last link a peer loses its place, too.
        full = None if peer in self._up else self._branches.seat(peer, line.link.lineage)
        if full is not None:
            line.carry_out(line.link.refuse(LimitExceeded(f"too many links: {full}")))
            return
        lines = self._up.setdefault(peer, [])
        lines.append(line)
        lines.sort(key=lambda each: each.link.relay is not None)
        self._on_change(peer)
        if len(lines) == 1 and self._observer is not None:
            self._observer.link_up(peer, hello, line.link.lineage)
        self._hand_over(peer)

    def _hand_over(self, peer: PeerId) -> None:
        self._handover.proceed(peer, self._up.get(peer, ()), time.monotonic())

    def _line_down(self, line: Line, down: Down) -> None:
        if line.over.done():
            return
        line.end(down)
        self._reading.over(line)
        self._lines.pop(line, None)
        peer = line.link.peer
        lines = [] if peer is None else self._up.get(peer, [])
        if down.error is not None:
            self._complain(line, down.reason)
        if peer is None or line not in lines:
            log.debug("a connection with %s ended: %s", line.link.endpoint, down.reason)
            return
        is_lossy = lossy(line, lines)
        lines.remove(line)
        if lines and is_lossy:
            # What was under way may be lost, and to tell of it is to begin anew, at both ends.
            for other in list(lines):
                other.close(down.reason)
            return
        if not lines:
            del self._up[peer]
            self._branches.leave(peer)
            self._handover.forget(peer)
        self._on_change(peer)
        if not lines and self._observer is not None:
            try:
                self._observer.link_down(peer, down.reason)
            except Exception:
                log.exception("the end of the link to %s could not be handled", peer)

    def _end_deaf(self) -> None:
        """Of those who leave unread what is sent to them, end links until the rest is bearable.

        Each has a while to answer a ping, but all together could have this node keep gigabytes.
        """
        unread = {line: line.link.unread_bytes for line in self._lines}
        while sum(unread.values()) > ALL_UNREAD_BYTES_MAX:
            line = heaviest(unread)
            size = unread.pop(line)
            deaf = TimedOut(f"leaves {size >> 20} MiB and more unread that it was sent")
            line.carry_out(line.link.close(str(deaf), deaf))

    def _complain(self, line: Line, reason: str) -> None:
        """Of a member, or of whoever dialled; why a dial of ours failed, `Dial` knows.

        Of a member that was thrown out, the mesh tells.
        """
        link, now = line.link, time.monotonic()
        if link.peer is not None:
            if not link.leaving:
                head = (*link.lineage, link.peer)[0]
                self._complaints.about(link.peer, "loses its link", reason, now, head=head)
        elif link.direction is Direction.INCOMING:
            who = "a stranger" if link.claimant is None else link.claimant
            self._complaints.about(link.whom, "is not let in", f"{who}: {reason}", now)


def _end(ends: Mapping[Line, list[LinkEvent]]) -> list[Line]:
    """All say their last word, although the end of one may be that of the others."""
    for line, events in ends.items():
        line.carry_out(events)
    return list(ends)
