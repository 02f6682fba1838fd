"""What is kept back while a relayed link gives way to a direct one. No sockets."""

from __future__ import annotations

import pytest

from overlay.limits import HANDSHAKE_S, PARKED_BYTES_MAX, SEND_QUEUE_MESSAGES_MAX
from overlay.transport.connection import Line
from overlay.transport.handover import Handover, RelayedLine, lossy
from overlay.transport.link import Down, LinkEvent, Received
from overlay.wire.between_transports import Moved
from overlay.wire.codec import decode
from overlay.wire.messages import Message, StreamAck
from tests.overlay.transport.test_link import FOUNDER, MEMBER, up

PEER = MEMBER.peer_id


class Ends:
    """A peer's two lines: the direct one is new. It is the `Exchange` of both."""

    def __init__(self) -> None:
        self.told: list[Message] = []
        self.sent: list[Message] = []
        self.reasons: list[str] = []
        self.handover = Handover(lambda peer, event: self.told.append(event.message))
        direct = Line(up(), self._send, self)
        relayed = up()
        relayed.relay = FOUNDER.peer_id
        self.relayed = RelayedLine(relayed, self._send, self, self._send, lambda: False)
        self.lines: list[Line] = [direct, self.relayed]

    def _send(self, data: bytes) -> None:
        self.sent.append(decode(data))

    def opened(self, line: Line) -> None:
        pass

    def receive(self, line: Line, data: bytes) -> None:
        pass

    def carry_out(self, line: Line, events: list[LinkEvent]) -> None:
        self.reasons += [event.reason for event in events if isinstance(event, Down)]

    def keep(self, seq: int, size: int = 10) -> bool:
        event = Received(StreamAck(bytes(16), seq), size)
        return self.handover.keep(PEER, self.lines, event)

    @property
    def kept_seqs(self) -> list[int]:
        return [message.seq for message in self.told if isinstance(message, StreamAck)]


async def test_what_came_on_the_new_link_waits_for_the_last_word_on_the_old_one() -> None:
    ends = Ends()
    ends.handover.proceed(PEER, ends.lines, 0.0)
    ends.handover.proceed(PEER, ends.lines, 1.0)
    assert ends.sent == [Moved()], "once"
    assert ends.keep(0)
    assert ends.keep(1)
    ends.handover.proceed(PEER, ends.lines, 2.0)
    assert ends.told == []
    ends.relayed.moved_in = True
    ends.handover.proceed(PEER, ends.lines, 3.0)
    assert ends.kept_seqs == [0, 1]
    assert ends.reasons == ["a direct link took over"]
    assert not ends.keep(2), "nothing is to come any more"


async def test_a_relay_that_holds_the_last_word_up_is_not_waited_for_for_ever() -> None:
    ends = Ends()
    ends.handover.proceed(PEER, ends.lines, 10.0)
    ends.handover.proceed(PEER, ends.lines, 10.0 + HANDSHAKE_S - 0.1)
    assert ends.reasons == []
    ends.handover.proceed(PEER, ends.lines, 10.0 + HANDSHAKE_S)
    assert ends.reasons == ["it was too slow to move to a direct link"]


@pytest.mark.parametrize(
    ("count", "size"), [(SEND_QUEUE_MESSAGES_MAX, 10), (8, PARKED_BYTES_MAX // 8)]
)
async def test_only_so_much_is_kept_back(count: int, size: int) -> None:
    """A member that never says that it has moved may send all the while."""
    ends = Ends()
    for seq in range(count):
        assert ends.keep(seq, size)
    assert ends.reasons == []
    ends.keep(count, size)
    assert ends.reasons == ["it was too slow to move to a direct link"]


async def test_what_was_kept_back_is_forgotten_with_the_last_link() -> None:
    ends = Ends()
    ends.keep(0)
    ends.handover.forget(PEER)
    ends.handover.proceed(PEER, [], 1.0)
    assert ends.told == []


async def test_with_direct_links_alone_nothing_is_kept_back() -> None:
    ends = Ends()
    ends.lines.pop()
    assert not ends.keep(0)
    ends.handover.proceed(PEER, ends.lines, 0.0)
    assert (ends.sent, ends.told) == ([], [])


async def test_with_a_line_is_lost_what_may_be_under_way_on_it() -> None:
    ends = Ends()
    direct, relayed = ends.lines
    assert lossy(direct, ends.lines), "the one in use"
    for moved_in, moved_out in ((False, False), (False, True), (True, False), (True, True)):
        ends.relayed.moved_in, ends.relayed.moved_out = moved_in, moved_out
        assert lossy(relayed, ends.lines) == (not (moved_in and moved_out))
    assert not lossy(direct, [Ends().lines[0], direct]), "a second direct one carries nothing"
    ends.relayed.moved_in = False
    assert not lossy(relayed, [Ends().relayed, relayed]), "nor does a second relayed one"
