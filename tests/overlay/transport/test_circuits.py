"""Members that cannot dial each other, on real sockets, with a third one between them."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import zmq

from overlay.admission.circuit import Circuit
from overlay.admission.handshake import Role
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import revoke
from overlay.limits import (
    CIRCUITS_OPENING_PER_RELAY_MAX,
    HANDSHAKES_BURST,
    HANDSHAKES_PER_S,
    MESSAGE_BYTES_MAX,
    PLACES_PER_BRANCH_PLACE,
)
from overlay.transport import detours, handover, relaying
from overlay.wire.between_transports import Relay
from overlay.wire.messages import Cancel, Message, StreamAck, TokenFrame
from tests.overlay.transport.nodes import PATIENCE_S, Node, eventually, linked, mesh

#: Nobody listens there.
NOWHERE = Multiaddr("ip4", "127.0.0.1", 1)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detours, "RELAY_AFTER_S", 0.0)


def relay_of(node: Node, peer: Node) -> PeerId | None:
    return node.transport.links()[peer.peer_id].relay


async def seek(node: Node, peer: Node, until: Callable[[], bool] | None = None) -> None:
    """Have a node look for a way to a peer until it has one, as a mesh does each second."""
    found = until or (lambda: peer.peer_id in node.transport.links())
    async with asyncio.timeout(PATIENCE_S):
        while not found():
            node.transport.detour([peer.peer_id])
            await asyncio.sleep(0)


@asynccontextmanager
async def apart(relays: int = 1) -> AsyncIterator[tuple[Node, Node, list[Node]]]:
    """Two members that dial each other in vain, and others to which both have links."""
    async with mesh(2 + relays) as (founder, *others):
        hubs = [founder, *others[2:]]
        left, right = others[:2]
        for hub in hubs:
            await linked(left, hub)
            await linked(right, hub)
        left.transport.dial(right.peer_id, [NOWHERE])
        right.transport.dial(left.peer_id, [NOWHERE])
        yield left, right, hubs


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[Node, Node, Node]]:
    """Two such members with a link through a third one."""
    async with apart() as (left, right, [hub]):
        await seek(left, right)
        await right.until(lambda: left.peer_id in right.transport.links())
        yield left, right, hub


async def test_two_that_cannot_dial_each_other_talk_through_a_third() -> None:
    async with relayed() as (left, right, hub):
        assert relay_of(left, right) == relay_of(right, left) == hub.peer_id
        link = left.transport.links()[right.peer_id]
        assert link.endpoint == f"/p2p/{hub.peer_id}/p2p-circuit/p2p/{right.peer_id}"
        assert link.direction == "outgoing"
        there: list[Message] = [TokenFrame(b"r", seq, (seq,), "text") for seq in range(300)]
        back: list[Message] = [StreamAck(b"r", seq) for seq in range(300)]
        for frame, ack in zip(there, back, strict=True):
            assert left.transport.send(right.peer_id, frame)
            assert right.transport.send(left.peer_id, ack)
        await right.until(lambda: len(right.messages()) == 300)
        await left.until(lambda: len(left.messages()) == 300)
        assert (right.messages(), left.messages()) == (there, back)
        assert hub.messages() == []
        await eventually(lambda: left.transport.links()[right.peer_id].rtt_ms is not None)


async def test_a_circuit_with_a_link_is_not_given_up_for_its_age() -> None:
    async with relayed() as (left, right, hub):
        for end in (left, right):
            end.transport._circuits.tick(time.monotonic() + 60)
        assert relay_of(left, right) == relay_of(right, left) == hub.peer_id
        assert left.transport.send(right.peer_id, Cancel(b"there"))
        await right.until(lambda: right.messages() == [Cancel(b"there")])


async def test_what_left_through_a_relay_is_remembered_as_long_as_that_matters() -> None:
    async with relayed() as (left, right, hub):
        there = left.transport._circuits
        there.tick(time.monotonic() + 60)
        assert [*there._outlets] == [hub.peer_id]
        left.transport.hang_up(right.peer_id, "that is all")
        await eventually(lambda: not there._ways)
        there.tick(time.monotonic() + 60)
        assert not there._outlets


async def test_both_may_look_for_each_other_at_once() -> None:
    async with apart() as (left, right, _):
        await asyncio.gather(seek(left, right), seek(right, left))
        assert left.transport.send(right.peer_id, Cancel(b"there"))
        assert right.transport.send(left.peer_id, Cancel(b"back"))
        assert await right.until_seen("received") == Cancel(b"there")
        assert await left.until_seen("received") == Cancel(b"back")


async def test_a_relay_without_a_link_says_so_and_the_next_one_is_asked() -> None:
    async with apart(relays=2) as (left, right, hubs):
        deaf = hubs[0]
        right.transport.hang_up(deaf.peer_id, "enough")
        await deaf.until(lambda: right.peer_id not in deaf.transport.links())
        await seek(left, right)
        assert relay_of(left, right) == hubs[1].peer_id


async def test_those_that_cannot_relay_are_asked_one_after_the_other_at_once() -> None:
    async with apart(relays=4) as (left, right, hubs):
        for deaf in hubs[1:]:
            right.transport.hang_up(deaf.peer_id, "enough")
            await deaf.until(lambda: right.peer_id not in deaf.transport.links())  # noqa: B023
        links = left.transport._links
        links.nearest = lambda: [hub.peer_id for hub in reversed(hubs)]  # type: ignore[method-assign]
        left.transport.detour([right.peer_id])
        left.transport.detour([right.peer_id])
        await left.until(lambda: right.peer_id in left.transport.links())
        assert relay_of(left, right) == hubs[0].peer_id


async def test_an_owner_may_decline_to_relay() -> None:
    async with apart() as (left, right, [hub]):
        hub.transport._circuits.relays = False
        refused = asyncio.Event()
        left.transport._circuits._on_end = lambda *_: refused.set()
        left.transport.detour([right.peer_id])
        async with asyncio.timeout(PATIENCE_S):
            await refused.wait()
        assert right.peer_id not in left.transport.links()
        assert hub.transport.relayed().messages == 0
        assert not hub.transport.relays


async def test_a_direct_link_takes_over_and_nothing_is_lost_or_out_of_order() -> None:
    async with relayed() as (left, right, _):
        frames: list[Message] = [TokenFrame(b"r", seq, (seq,), "") for seq in range(2000)]
        acks: list[Message] = [StreamAck(b"r", seq) for seq in range(2000)]
        left.transport.dial(right.peer_id, right.addresses)
        for number, (frame, ack) in enumerate(zip(frames, acks, strict=True)):
            assert left.transport.send(right.peer_id, frame)
            assert right.transport.send(left.peer_id, ack)
            await asyncio.sleep(0.0005 if number % 10 == 0 else 0)
        await right.until(lambda: len(right.messages()) == 2000)
        await left.until(lambda: len(left.messages()) == 2000)
        assert (right.messages(), left.messages()) == (frames, acks)
        await eventually(lambda: relay_of(left, right) is relay_of(right, left) is None)
        assert left.seen("down") == right.seen("down") == []
        assert len(left.seen("up")) == len(right.seen("up")) == 2
        await eventually(lambda: circuits(left) == circuits(right) == 0)


def circuits(node: Node) -> int:
    return sum(map(len, node.transport._circuits._ways.values()))


async def test_a_relay_that_is_lost_while_a_direct_link_takes_over_is_the_end_of_both() -> None:
    """What was under way on it is lost, and what came later must not pass for all there was."""
    async with relayed() as (left, right, hub):
        lie(hub, lambda payload: [])
        assert left.transport.send(right.peer_id, Cancel(b"lost"))
        left.transport.dial(right.peer_id, right.addresses)
        await eventually(lambda: relay_of(left, right) is relay_of(right, left) is None)
        assert left.transport.send(right.peer_id, Cancel(b"after what is lost"))
        await eventually(lambda: left.peer_id in right.transport._links._handover._kept)
        await hub.transport.close()
        await left.until(lambda: right.peer_id in [peer for peer, _ in left.seen("down")])
        await right.until(lambda: left.peer_id in [peer for peer, _ in right.seen("down")])
        await left.until(lambda: right.peer_id in left.transport.links())
        assert left.transport.send(right.peer_id, Cancel(b"anew"))
        await right.until(lambda: Cancel(b"anew") in right.messages())
        told = [message for peer, message in right.seen("received") if peer == left.peer_id]
        assert told == [Cancel(b"anew")]


async def test_a_relay_does_not_hold_up_a_direct_link_for_as_long_as_it_likes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handover, "HANDSHAKE_S", 0.5)
    async with relayed() as (left, right, hub):
        lie(hub, lambda payload: [])
        left.transport.dial(right.peer_id, right.addresses)
        await left.until(lambda: right.peer_id in [peer for peer, _ in left.seen("down")])
        assert "it was too slow to move to a direct link" in [why for _, why in left.seen("down")]
        await left.until(lambda: right.peer_id in left.transport.links())
        assert left.transport.send(right.peer_id, Cancel(b"at last"))
        await right.until(lambda: Cancel(b"at last") in right.messages())


async def test_without_its_relay_the_link_is_down_and_another_relay_takes_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with apart(relays=2) as (left, right, hubs):
        await seek(left, right)
        await right.until(lambda: left.peer_id in right.transport.links())
        left.transport.detour([right.peer_id])
        # A direct link had its time.
        monkeypatch.setattr(detours, "RELAY_AFTER_S", math.inf)
        # It looks at every link: with a relay a thousand may end, and the loop would stand still.
        monkeypatch.setattr(left.transport._links, "nearest", looks := Mock(return_value=[]))
        first = next(hub for hub in hubs if hub.peer_id == relay_of(left, right))
        await first.transport.close()
        await left.until(
            lambda: (right.peer_id, "the link to the relay is down") in left.seen("down")
        )
        # Nobody waits for the next `detour`.
        await left.until(lambda: right.peer_id in left.transport.links())
        assert relay_of(left, right) not in (None, first.peer_id)
        await right.until(lambda: relay_of(right, left) == relay_of(left, right))
        looks.assert_not_called()


async def test_goodbye_goes_through_the_relay() -> None:
    async with relayed() as (left, right, _):
        await left.transport.close()
        await right.until(
            lambda: (left.peer_id, "said goodbye: the node stops") in right.seen("down")
        )


async def test_hanging_up_ends_a_relayed_link() -> None:
    async with relayed() as (left, right, _):
        left.transport.hang_up(right.peer_id, "enough")
        assert right.peer_id not in left.transport.links()
        await right.until(lambda: (left.peer_id, "said goodbye: enough") in right.seen("down"))
        await eventually(lambda: circuits(left) == circuits(right) == 0)


async def test_a_revoked_member_is_refused_through_a_relay_too() -> None:
    async with relayed() as (left, right, hub):
        assert hub.me.membership is not None
        _, record = revoke(hub.key, hub.me.membership, hub.revocations, right.peer_id, time.time())
        left.revocations.add(record)
        assert left.transport.refuse_revoked() == [right.peer_id]
        await right.until(lambda: right.shown == [record])
        # The relay has not heard of it.
        assert relay_of(right, hub) is None


async def test_who_sends_flat_out_is_slowed_and_nothing_is_refused_or_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    burst = 1 << 18
    monkeypatch.setattr(relaying, "RELAY_BYTES_BURST", burst)
    monkeypatch.setattr(relaying, "RELAY_MESSAGES_BURST", 256)
    async with relayed() as (left, right, hub):
        frames: list[Message] = [TokenFrame(b"r", seq, (), "x" * 1000) for seq in range(2000)]

        async def send(end: Node, peer: Node) -> None:
            for frame in frames:
                await eventually(partial(end.transport.send, peer.peer_id, frame))

        await asyncio.gather(send(left, right), send(right, left))
        await right.until(lambda: len(right.messages()) == len(frames))
        await left.until(lambda: len(left.messages()) == len(frames))
        assert right.messages() == left.messages() == frames
        assert left.seen("down") == right.seen("down") == []
        assert hub.transport.relayed().refused == 0
        assert hub.transport.relayed().bytes > 10 * burst


async def test_a_link_to_the_relay_that_is_full_for_a_while_costs_no_message() -> None:
    async with relayed() as (left, right, hub):
        line = left.transport._links.direct(hub.peer_id)
        assert line is not None
        taken = itertools.cycle([True, False, False])
        send = line._send
        line._send = lambda data: send(data) if next(taken) else zmq.Again()
        frames: list[Message] = [StreamAck(b"r", seq) for seq in range(100)]
        for frame in frames:
            assert left.transport.send(right.peer_id, frame)
        await right.until(lambda: len(right.messages()) == len(frames))
        assert right.messages() == frames
        assert left.seen("down") == right.seen("down") == []


async def test_a_direct_link_takes_over_though_the_queue_for_the_relay_is_full() -> None:
    async with relayed() as (left, right, _):
        frames: list[Message] = [TokenFrame(b"r", seq, (), "x" * 10_000) for seq in range(1000)]
        sent = list(itertools.takewhile(lambda f: left.transport.send(right.peer_id, f), frames))
        assert len(sent) < len(frames)
        left.transport.dial(right.peer_id, right.addresses)
        await eventually(lambda: relay_of(left, right) is None)
        last = Cancel(b"on the direct link")
        assert left.transport.send(right.peer_id, last)
        await right.until(lambda: len(right.messages()) > len(sent))
        assert right.messages() == [*sent, last]


async def test_more_than_a_relay_grants_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would if the ends did not hold themselves to less."""
    async with relayed() as (left, right, hub):
        monkeypatch.setattr(relaying, "RELAY_BYTES_BURST", 100_000)
        monkeypatch.setattr(relaying, "RELAY_BYTES_PER_S", 1)
        hub.transport._circuits.allowance._senders.clear()
        for seq in range(3):
            left.transport.send(right.peer_id, TokenFrame(b"r", seq, (), "x" * 60_000))
        await left.until(lambda: right.peer_id not in left.transport.links())
        [(peer, reason)] = left.seen("down")
        assert peer == right.peer_id
        assert "a second are relayed" in str(reason)
        assert hub.transport.relayed().refused >= 1
        # The relay keeps the peace with both.
        assert hub.seen("down") == []


async def test_a_message_that_is_too_long_to_be_wrapped_is_not_sent() -> None:
    async with relayed() as (left, right, _):
        long = TokenFrame(b"r", 0, (), "x" * (MESSAGE_BYTES_MAX - 20))
        assert not left.transport.send(right.peer_id, long)
        assert left.transport.send(right.peer_id, Cancel(b"short"))
        assert await right.until_seen("received") == Cancel(b"short")


Payloads = Callable[[bytes], list[bytes]]


def lie(hub: Node, change: Payloads) -> None:
    """From here on the relay passes on something else."""
    relay = hub.transport._circuits
    honest = relay._pass_on

    def pass_on(sender: PeerId, peer: PeerId, payload: bytes) -> None:
        for each in change(payload):
            honest(sender, peer, each)

    relay._pass_on = pass_on  # type: ignore[method-assign]


async def test_what_a_relay_repeats_and_makes_up_has_no_effect() -> None:
    async with relayed() as (left, right, hub):
        lie(hub, lambda payload: [payload[:5], payload, payload[:-1] + b"x", payload, b"", b"\x07"])
        frames: list[Message] = [TokenFrame(b"r", seq, (seq,), "") for seq in range(50)]
        for frame in frames:
            assert left.transport.send(right.peer_id, frame)
        await right.until(lambda: len(right.messages()) == 50)
        assert right.messages() == frames
        assert right.seen("down") == [] == left.seen("down")


async def test_what_a_relay_leaves_out_is_noticed() -> None:
    async with relayed() as (left, right, hub):
        passed = iter([True, False])
        lie(hub, lambda payload: [payload] if next(passed, True) else [])
        for seq in range(3):
            left.transport.send(right.peer_id, StreamAck(b"r", seq))
        lost = "messages were lost on the way through the relay"
        assert await right.until_seen("down") == lost
        assert len(right.messages()) <= 2
        # Who did not notice is told, and waits for no answers in vain.
        assert await left.until_seen("down") == f"refused: {lost}"


#: Of those whom one member let in, or a relay may have made up.
OF_ONE_BRANCH = CIRCUITS_OPENING_PER_RELAY_MAX // PLACES_PER_BRANCH_PLACE


def opened(end: Node, hub: Node, peer: PeerId) -> None:
    """The relay says that this peer opens a circuit; nobody will confirm it."""
    circuit = Circuit(Role.DIALER, hub.key, end.peer_id, bytes(peer))
    end.transport._circuits._arrived(hub.peer_id, peer, circuit.open(), 100)


async def test_a_relay_cannot_open_circuits_without_end() -> None:
    async with mesh(3) as (hub, left, right):
        await linked(left, hub)
        await linked(right, hub)
        for seed in range(3 * CIRCUITS_OPENING_PER_RELAY_MAX):
            opened(right, hub, PeerId(seed.to_bytes(32, "big")))
        assert circuits(right) == OF_ONE_BRANCH
        for seed in range(100, 100 + CIRCUITS_OPENING_PER_RELAY_MAX):
            peer = PeerId(seed.to_bytes(32, "big"))
            right.lineages[peer] = (peer,)
            opened(right, hub, peer)
        assert circuits(right) == CIRCUITS_OPENING_PER_RELAY_MAX
        right.transport._circuits.tick(time.monotonic() + 60)
        assert circuits(right) == 0
        await seek(left, right)


async def test_a_crowd_that_opens_circuits_leaves_others_a_place() -> None:
    """It need not even lie: each of it asks an honest relay for it, and then says nothing more."""
    async with apart() as (left, right, [hub]):
        right.lineages[left.peer_id] = (left.peer_id,)
        there = right.transport._circuits
        for seed in range(3 * CIRCUITS_OPENING_PER_RELAY_MAX):
            peer = PeerId(seed.to_bytes(32, "big"))
            right.lineages[peer] = (PeerId(b"l" * 32), peer)
            opened(right, hub, peer)
        assert circuits(right) <= OF_ONE_BRANCH
        circuit = Circuit(Role.DIALER, left.key, right.peer_id, bytes(32))
        there._arrived(hub.peer_id, left.peer_id, circuit.open(), 100)
        assert (Role.LISTENER, left.peer_id) in there._ways[hub.peer_id]


async def test_who_opens_circuits_and_drops_them_again_is_heard_now_and_then() -> None:
    """Each takes the time of dozens of messages, and a branch has any number of members."""
    async with apart() as (left, right, [hub]):
        right.lineages[left.peer_id] = (left.peer_id,)
        there, answered = right.transport._circuits, 0
        for seed in range(3 * HANDSHAKES_BURST):
            peer = PeerId((seed % 50).to_bytes(32, "big"))
            right.lineages[peer] = (PeerId(b"l" * 32), peer)
            circuit = Circuit(Role.DIALER, hub.key, right.peer_id, seed.to_bytes(32, "big"))
            there._arrived(hub.peer_id, peer, circuit.open(), 100)
            answered += circuits(right)
            there._lost(hub.peer_id, "it is dropped again", peer)
        assert answered <= HANDSHAKES_BURST + HANDSHAKES_PER_S * PATIENCE_S
        await seek(left, right)


async def test_a_crowd_of_relays_makes_up_no_more_circuits_than_one() -> None:
    async with mesh(1) as (here,):
        there, answered, head = here.transport._circuits, 0, PeerId(b"l" * 32)
        for seed in range(3 * HANDSHAKES_BURST):
            relay, peer = (PeerId(bytes([n, *bytes(31)])) for n in (seed % 5, 100 + seed % 50))
            here.transport._links._branches.seat(relay, (head, relay))
            circuit = Circuit(Role.DIALER, here.key, here.peer_id, seed.to_bytes(32, "big"))
            there._arrived(relay, peer, circuit.open(), 100)
            answered += circuits(here)
            there._lost(relay, "it is dropped again", peer)
        assert 0 < answered <= HANDSHAKES_BURST + HANDSHAKES_PER_S * PATIENCE_S


async def test_a_relay_that_makes_up_circuits_of_others_keeps_them_from_no_other_relay() -> None:
    async with apart() as (left, right, [hub]):
        right.lineages[left.peer_id] = (left.peer_id,)
        there, liar = right.transport._circuits, PeerId(b"l" * 32)
        for seed in range(2 * HANDSHAKES_BURST):
            circuit = Circuit(Role.DIALER, hub.key, right.peer_id, seed.to_bytes(32, "big"))
            there._arrived(liar, left.peer_id, circuit.open(), 100)
        opened(right, hub, left.peer_id)
        assert (Role.LISTENER, left.peer_id) in there._ways[hub.peer_id]


async def test_a_circuit_with_a_link_takes_no_place_of_those_that_open() -> None:
    async with relayed() as (_, right, hub):
        for seed in range(CIRCUITS_OPENING_PER_RELAY_MAX + 1):
            opened(right, hub, PeerId(seed.to_bytes(32, "big")))
        assert circuits(right) == 1 + OF_ONE_BRANCH


async def test_who_finds_no_place_for_its_circuit_asks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a relay came back, and a whole mesh wants circuits through it at once."""
    async with apart() as (left, right, [hub]):
        there = right.transport._circuits
        # The relay says that it has no link to those that take the places here.
        lost = there._lost
        monkeypatch.setattr(there, "_lost", lambda *_: None)
        for seed in range(OF_ONE_BRANCH):
            opened(right, hub, PeerId(seed.to_bytes(32, "big")))
        answer, ignored = there._opened, asyncio.Event()

        def watched(*args: Any) -> Any:
            way = answer(*args)
            if way is None:
                ignored.set()
            return way

        monkeypatch.setattr(there, "_opened", watched)
        left.transport.detour([right.peer_id])
        async with asyncio.timeout(PATIENCE_S):
            await ignored.wait()
        monkeypatch.setattr(there, "_lost", lost)
        there.tick(time.monotonic() + 60)
        await left.until(lambda: right.peer_id in left.transport.links())


async def test_a_circuit_is_opened_however_much_links_have_said_of_late() -> None:
    async with apart() as (left, right, [hub]):
        for end in (left, right):
            pace = end.transport._circuits._outlet(hub.peer_id)._pace
            while pace.may_say(1, time.monotonic()):
                pass
        left.transport.detour([right.peer_id])
        await left.until(lambda: right.peer_id in left.transport.links())


async def test_nothing_is_relayed_to_oneself_or_to_nobody() -> None:
    async with relayed() as (left, right, hub):
        stranger = PeerId(bytes(32))
        for peer in (left.peer_id, hub.peer_id, stranger):
            assert left.transport.send(hub.peer_id, Relay(peer, b"\x01" + bytes(32)))
        assert left.transport.send(right.peer_id, Cancel(b"still here"))
        assert await right.until_seen("received") == Cancel(b"still here")
        assert hub.transport.relayed().messages > 0
        assert circuits(left) == circuits(right) == 1
