"""Which links a node has, and what it is told of them: without sockets, real links at both ends."""

from __future__ import annotations

import asyncio
import itertools
import time
from functools import partial

import pytest

from overlay.admission.handshake import Handshake, LocalNode, Role
from overlay.identity.branches import Lineage
from overlay.identity.certificates import Membership, found_mesh, issue
from overlay.identity.invites import InviteLedger
from overlay.identity.keys import NodeKey, curve_public
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations
from overlay.transport import links
from overlay.transport.connection import Line
from overlay.transport.handover import RelayedLine
from overlay.transport.link import Link, LinkState
from overlay.transport.links import BetweenTransports, Links
from overlay.wire.between_transports import DialedBack
from overlay.wire.codec import encode
from overlay.wire.messages import Batch, BatchedFrame, Cancel, Hello, Message, StreamAck

FOUNDER = NodeKey.from_seed(bytes(32))
FOUNDED = found_mesh(FOUNDER, bytes(32))
RELAY = PeerId(b"r" * 32)


class End:
    """A member with links, which notes what it is told of them."""

    key: NodeKey
    membership: Membership
    lineage: Lineage

    def __init__(self, number: int, inviter: End | None = None) -> None:
        self.key = NodeKey.from_seed(bytes([number]) * 32)
        self.peer = self.key.peer_id
        self.lineage = (*(inviter.lineage if inviter else ()), self.peer)
        key, above = (inviter.key, inviter.membership) if inviter else (FOUNDER, FOUNDED)
        chain = issue(key, above, self.peer, time.time())
        self.membership = Membership(FOUNDER.peer_id, FOUNDED.mesh_secret, chain)
        self.me = LocalNode(self.key, self.membership, f"member {number}", ())
        self.told: list[tuple[str, PeerId, object]] = []
        #: Whom it hangs up on when this is told.
        self.hang_up_at: Message | None = None
        self.links = Links(
            self,
            on_ledger=lambda: None,
            on_change=lambda peer: None,
            on_excess=lambda peer, why: None,
            on_breach=lambda peer, how: None,
            on_request=self.request,
        )

    def link(self, role: Role, to: End, relay: PeerId | None) -> Link:
        handshake = Handshake(
            role=role,
            me=self.me,
            remote_curve=curve_public(to.peer),
            token=None,
            ledger=InviteLedger(self.peer),
            revocations=Revocations(FOUNDER.peer_id),
            nonce=bytes(16),
            now=time.monotonic(),
        )
        return Link(handshake, str(to.peer), time.monotonic(), relay=relay)

    def request(self, line: Line, peer: PeerId, message: BetweenTransports) -> None:
        self.told.append(("request", peer, message))

    def link_up(self, peer: PeerId, hello: Hello, lineage: Lineage) -> None:
        self.told.append(("up", peer, (hello.name, lineage)))

    def link_measured(self, peer: PeerId, rtt_ms: float) -> None:
        self.told.append(("measured", peer, rtt_ms >= 0))

    def link_down(self, peer: PeerId, reason: str) -> None:
        self.told.append(("down", peer, reason))

    def received(self, peer: PeerId, message: Message, size: int) -> None:
        self.told.append(("received", peer, message))
        if message == self.hang_up_at:
            self.links.hang_up(peer, "enough")

    def revocation_shown(self, by: str, record: bytes) -> None:
        raise AssertionError


#: Of all lines together: who said something to whom.
Said = list[tuple[PeerId, PeerId]]


async def joined(
    dialler: End, listener: End, *, relay: PeerId | None = None, said: Said | None = None
) -> tuple[Line, Line]:
    """Link two, through a ``relay`` or else directly; the lines at both ends."""
    lines: dict[End, Line] = {}

    def send(sender: End, receiver: End, data: bytes) -> None:
        if said is not None:
            said.append((sender.peer, receiver.peer))
        asyncio.get_running_loop().call_soon(receiver.links.receive, lines[receiver], data)

    for here, there, role in (
        (listener, dialler, Role.LISTENER),
        (dialler, listener, Role.DIALER),
    ):
        link, way = here.link(role, there, relay), partial(send, here, there)
        if relay is None:
            lines[here] = Line(link, way, here.links)
        else:
            lines[here] = RelayedLine(link, way, here.links, way, lambda: False)
    for end in (listener, dialler):
        lines[end].carry_out(lines[end].link.open())
    await settled()
    assert lines[dialler].link.peer == listener.peer
    assert lines[listener].link.peer == dialler.peer
    return lines[dialler], lines[listener]


async def settled() -> None:
    """What is said now is said in a few steps, each in its turn of the loop."""
    for _ in range(20):
        await asyncio.sleep(0)


def ends(count: int) -> list[End]:
    return [End(number) for number in range(1, 1 + count)]


async def test_whom_a_node_can_reach_and_how() -> None:
    here, dialled, dials, far, called = ends(5)
    to_dialled, _ = await joined(here, dialled)
    await joined(dials, here)
    to_far, _ = await joined(here, far, relay=RELAY)
    await joined(called, here, relay=RELAY)
    assert here.links.dialled() == {dialled.peer: to_dialled}
    assert [here.links.has_incoming(e.peer) for e in (dialled, dials, far, called)] == [
        False,
        True,
        False,
        False,
    ]
    assert here.links.direct(dialled.peer) is here.links.line(dialled.peer) is to_dialled
    assert here.links.direct(far.peer) is None
    assert here.links.line(far.peer) is to_far
    assert here.links.line(RELAY) is here.links.direct(RELAY) is None


@pytest.mark.parametrize("order", [*itertools.permutations([None, 5.0, 50.0])])
async def test_the_nearest_is_asked_to_relay_before_those_farther_away(
    order: tuple[float | None, ...],
) -> None:
    here, *others, far = ends(5)
    for other, rtt_ms in zip(others, order, strict=True):
        line, _ = await joined(here, other)
        line.link._pings.rtt_ms = rtt_ms
    await joined(here, far, relay=RELAY)
    by_rtt = {rtt_ms: other.peer for other, rtt_ms in zip(others, order, strict=True)}
    assert here.links.nearest() == [by_rtt[5.0], by_rtt[50.0], by_rtt[None]]


async def test_of_those_who_leave_unread_what_is_sent_to_them_the_worst_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is given 30 s, but a crowd with accomplices could fill a gigabyte until then."""
    here, *deaf, reads = ends(5)
    lines = [(await joined(here, each))[0] for each in (*deaf, reads)]
    monkeypatch.setattr(links, "ALL_UNREAD_BYTES_MAX", 5 << 20)
    for each in deaf:
        monkeypatch.setattr(each.links, "receive", lambda *_: None)
    for _ in range(4):
        for line, size in zip(lines, (3, 1, 2, 3), strict=True):
            line.link.sent(size << 18)
        here.links.tick()
        await settled()
        here.links.tick()
    assert [line.link.state is LinkState.UP for line in lines] == [False, True, True, True]
    assert [peer for told, peer, _ in here.told if told == "down"] == [deaf[0].peer]


async def test_a_crowd_that_leaves_a_little_unread_each_has_no_other_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, head, friend = ends(3)
    crowd = [End(number, head) for number in range(10, 15)]
    monkeypatch.setattr(links, "ALL_UNREAD_BYTES_MAX", 5 << 20)
    lines = [(await joined(here, each))[0] for each in (*crowd, friend)]
    for line, size in zip(lines, (3, 3, 3, 4, 3, 5), strict=True):
        line.link.sent(size << 18)
    here.links.tick()
    assert [line.link.state is LinkState.UP for line in lines] == [True] * 3 + [False, True, True]


async def test_a_crowd_that_is_near_has_no_more_than_its_turns_before_another_is_asked() -> None:
    """Each that does not answer takes HANDSHAKE_S, and one member can let in hundreds."""
    here, head, friend = ends(3)
    crowd = [End(number, head) for number in range(10, 15)]
    for rtt_ms, other in enumerate([*crowd, friend]):
        line, _ = await joined(here, other)
        line.link._pings.rtt_ms = rtt_ms
    nearest = here.links.nearest()
    assert nearest == [crowd[0].peer, friend.peer, *(other.peer for other in crowd[1:])]


@pytest.mark.parametrize("order", [(None, RELAY), (RELAY, None)])
async def test_of_a_direct_and_a_relayed_link_the_direct_one_is_in_use_and_one_is_told_of(
    order: tuple[PeerId | None, ...],
) -> None:
    here, there = ends(2)
    lines = {relay: (await joined(here, there, relay=relay))[0] for relay in order}
    assert here.links.line(there.peer) is lines[None]
    assert here.links.line(there.peer) is here.links.direct(there.peer)
    for end, peer in ((here, there), (there, here)):
        told = [each for each in end.told if each[0] in ("up", "down")]
        assert told == [("up", peer.peer, (peer.me.name, peer.lineage))]


async def test_who_dials_again_has_lost_the_link_that_it_had() -> None:
    here, there = ends(2)
    _, lost = await joined(there, here)
    _, anew = await joined(there, here)
    assert here.links.line(there.peer) is anew
    assert lost.gone.done()
    up = ("up", there.peer, (there.me.name, there.lineage))
    told = [each for each in here.told if each[0] in ("up", "down")]
    assert told == [up, ("down", there.peer, "replaced by a new connection"), up]


async def test_of_several_links_the_one_in_use_is_measured() -> None:
    here, there = ends(2)
    first, _ = await joined(here, there)
    second, _ = await joined(there, here)
    measured = [kind for kind, _, _ in here.told].count("measured")
    for line, more in ((second, 0), (first, 1)):
        line.carry_out([line.link._ping(time.monotonic())])
        await settled()
        measured += more
        assert [kind for kind, _, _ in here.told].count("measured") == measured


async def test_each_part_of_a_batch_is_told_as_if_it_had_come_by_itself() -> None:
    here, there = ends(2)
    line, _ = await joined(there, here)
    batch = Batch((BatchedFrame(b"r", 0, (1,), "a"),), (StreamAck(b"r", 1), StreamAck(b"s", 2)))
    line.transmit(encode(batch))
    await settled()
    assert [told for kind, _, told in here.told if kind == "received"] == batch.parts()
    # What is told may end the link: of what follows, nobody wants to hear.
    here.told.clear()
    here.hang_up_at = StreamAck(b"r", 1)
    line.transmit(encode(batch))
    await settled()
    assert [told for kind, _, told in here.told if kind == "received"] == batch.parts()[:2]


async def test_what_is_for_the_transport_is_no_word_to_the_node() -> None:
    here, there = ends(2)
    line, _ = await joined(there, here)
    before = len(here.told)
    asked = DialedBack(7710, True)
    line.transmit(encode(asked))
    line.transmit(encode(Cancel(b"r")))
    await settled()
    assert here.told[before:] == [
        ("request", there.peer, asked),
        ("received", there.peer, Cancel(b"r")),
    ]


async def test_who_stops_says_goodbye_to_all_and_first_to_whom_others_carry_it() -> None:
    said: Said = []
    here, near, far, other = ends(4)
    await joined(here, near, said=said)
    await joined(here, far, relay=near.peer, said=said)
    await joined(here, other, said=said)
    said.clear()
    told = len(here.told)
    lines = here.links.close("the node stops")
    assert said == [(here.peer, far.peer), (here.peer, near.peer), (here.peer, other.peer)]
    await settled()
    assert all(line.gone.done() for line in lines), "each has read it and answered"
    for end in (near, far, other):
        assert end.told[-1] == ("down", here.peer, "said goodbye: the node stops")
    assert len(here.told) == told


async def test_a_bug_of_ours_ends_its_link_and_no_other() -> None:
    here, there, other = ends(3)
    line, _ = await joined(there, here)
    await joined(other, here)

    def fail(*_: object) -> None:
        raise ValueError

    here.links._on_request = fail
    mine = here.links.line(there.peer)
    assert mine is not None
    line.transmit(encode(DialedBack(7710, True)))
    line.transmit(encode(Cancel(b"what follows")))
    await settled()
    assert here.told[-1] == ("down", there.peer, "this node failed to handle a message")
    assert mine.gone.done()
    assert here.links.line(other.peer) is not None
