"""Whether a node can be reached where its peers see it: at its router's address, perhaps."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.identity.branches import Lineage
from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import ADDRESSES_MAX, DIAL_BACK_INTERVAL_S, DIAL_BACKS_MAX
from overlay.transport.public import PublicAddresses, seen_at
from overlay.transport.sockets import Sockets
from overlay.wire.between_transports import DialBack
from overlay.wire.messages import Cancel
from tests.overlay.transport.nodes import Node, eventually, linked, mesh

ANN, BOB = (NodeKey.from_seed(bytes([n]) * 32).peer_id for n in (1, 2))
OWN = (Multiaddr("ip4", "10.2.0.2", 7710), Multiaddr("ip4", "127.0.0.1", 7710))
ROUTER = Multiaddr("ip4", "203.0.113.3", 41_000)
PUBLIC = Multiaddr("ip4", "203.0.113.3", 7710)


def test_what_a_connection_tells_of_the_other_end() -> None:
    assert seen_at("203.0.113.3:41000") == ROUTER
    assert seen_at("2001:db8::7:41000") == Multiaddr("ip6", "2001:db8::7", 41_000)
    assert seen_at("fe80::1%eth0:1") == Multiaddr("ip6", "fe80::1", 1)


@given(st.text(max_size=40))
def test_no_text_is_taken_for_an_address_that_it_is_not(text: str) -> None:
    found = seen_at(text)
    assert found is None or str(found.port) in text


def test_a_router_that_passes_on_is_found_and_forgotten_again() -> None:
    addresses = PublicAddresses()
    assert addresses.due({(ANN,): ROUTER}, OWN, 0.0) == [(ANN, 7710)]
    assert addresses.confirmed(1.0) == ()
    addresses.answered(ANN, 7710, True, 1.0)
    assert addresses.confirmed(1.0) == (PUBLIC,)
    assert addresses.due({(ANN,): ROUTER}, OWN, DIAL_BACK_INTERVAL_S - 1) == []
    assert addresses.due({(ANN,): ROUTER}, OWN, DIAL_BACK_INTERVAL_S) == [(ANN, 7710)]
    # One peer that did not get through is no proof. But somebody must.
    addresses.answered(ANN, 7710, False, DIAL_BACK_INTERVAL_S + 1)
    assert addresses.confirmed(3 * DIAL_BACK_INTERVAL_S) == (PUBLIC,)
    assert addresses.confirmed(3 * DIAL_BACK_INTERVAL_S + 2) == ()


def test_peers_are_asked_in_turn_and_once_for_one_address() -> None:
    addresses = PublicAddresses()
    seen: dict[Lineage, Multiaddr] = {(ANN,): ROUTER, (BOB,): ROUTER}
    rounds = [addresses.due(seen, OWN, n * DIAL_BACK_INTERVAL_S) for n in range(4)]
    asked = [peer for found in rounds for peer, _ in found]
    assert len(asked) == 4
    assert asked[0] != asked[1]
    assert asked[:2] == asked[2:]


@pytest.mark.parametrize(
    "seen",
    [OWN[0], Multiaddr("ip4", "10.2.0.2", 5), Multiaddr("ip4", "127.0.0.1", 9)],
)
def test_nobody_is_asked_for_what_is_known(seen: Multiaddr) -> None:
    assert PublicAddresses().due({(ANN,): seen}, OWN, 0.0) == []


def test_who_listens_on_loopback_alone_does_not_ask() -> None:
    assert PublicAddresses().due({(ANN,): ROUTER}, OWN[1:], 0.0) == []


def test_answers_to_no_question_confirm_nothing() -> None:
    addresses = PublicAddresses()
    addresses.answered(ANN, 7710, True, 0.0)
    addresses.due({(ANN,): ROUTER}, OWN, 0.0)
    addresses.answered(BOB, 7710, True, 0.0)
    addresses.answered(ANN, 22, True, 0.0)
    addresses.answered(ANN, 7710, True, 0.0)
    assert addresses.confirmed(1.0) == ()


def test_a_peer_that_sees_us_everywhere_does_not_fill_the_card() -> None:
    addresses = PublicAddresses()
    for number in range(50):
        now = number * DIAL_BACK_INTERVAL_S / 10
        peer = NodeKey.from_seed(bytes([number]) * 32).peer_id
        addresses.due({(peer,): Multiaddr("ip4", f"203.0.113.{number}", 1)}, OWN, now)
        addresses.answered(peer, 7710, True, now)
        assert len(addresses.confirmed(now)) <= ADDRESSES_MAX // 2


def test_a_crowd_that_one_member_let_in_does_not_keep_the_true_address_from_being_found() -> None:
    """Neither by saying nothing, nor by seeing this node everywhere else and confirming that."""
    addresses = PublicAddresses()
    crowd: list[Lineage] = [
        (ANN, NodeKey.from_seed(bytes([number]) * 32).peer_id) for number in range(10, 50)
    ]
    friend: Lineage = (BOB, BOB)
    asked: list[PeerId] = []
    for minute in range(6):
        now = minute * DIAL_BACK_INTERVAL_S
        lies = {
            way: Multiaddr("ip4", f"198.51.100.{number}", 1)
            for number, way in enumerate(crowd[::2], start=1)
        }
        silent = dict.fromkeys(crowd[1::2], ROUTER)
        for peer, port in addresses.due({**lies, **silent, friend: ROUTER}, OWN, now):
            asked.append(peer)
            if peer not in [way[-1] for way in silent]:
                addresses.answered(peer, port, True, now)
        assert (PUBLIC in addresses.confirmed(now)) is (BOB in asked)
    assert 2 <= asked.count(BOB) <= 3


def test_who_hangs_up_after_each_turn_does_not_keep_others_from_theirs() -> None:
    addresses = PublicAddresses()
    first, second = sorted([ANN, BOB])
    asked = []
    for minute in range(4):
        now = minute * DIAL_BACK_INTERVAL_S
        both: dict[Lineage, Multiaddr] = {(first,): ROUTER, (second,): ROUTER}
        asked += [peer for peer, _ in addresses.due(both, OWN, now)]
        addresses.due({(second,): ROUTER}, OWN, now + 1)
    assert asked == [first, second, first, second]


# --- On real sockets --------------------------------------------------------------------------


@pytest.fixture
def _as_behind_a_router(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is as good as any network."""
    monkeypatch.setattr(Multiaddr, "is_loopback", False)


def behind_a_router(node: Node, port: int) -> None:
    """The node knows its address as another one than peers see it at."""
    node.transport._own = (Multiaddr("ip4", "10.2.0.2", port),)


async def test_who_dials_learns_where_it_is_seen() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        [seen] = one.transport.observed().values()
        assert (seen.family, seen.host) == ("ip4", "127.0.0.1")
        assert other.transport.observed() == {}


@pytest.mark.usefixtures("_as_behind_a_router")
async def test_a_member_dials_back_and_confirms() -> None:
    async with mesh(2) as (one, other):
        [address] = one.addresses
        behind_a_router(one, address.port)
        await linked(one, other)
        await eventually(lambda: one.transport.public() == (address,))
        # It was no link.
        assert len(one.seen("up")) == len(other.seen("up")) == 1


@pytest.mark.usefixtures("_as_behind_a_router")
async def test_a_member_that_does_not_get_through_confirms_nothing() -> None:
    async with mesh(3) as (one, other, third):
        # There somebody answers, but not who asked.
        behind_a_router(one, third.addresses[0].port)
        await linked(one, other)
        asked = one.transport._public
        await eventually(lambda: bool(asked._checked) and not asked._open)
        assert one.transport.public() == ()


async def test_a_member_is_dialled_back_once_in_a_while_and_only_if_it_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled: list[str] = []

    async def answers(sockets: Sockets, peer: PeerId, endpoint: str) -> None:
        dialled.append(endpoint)

    monkeypatch.setattr("overlay.transport.dialback.answers", answers)
    async with mesh(2) as (one, other):
        await linked(one, other)
        for _ in range(5):
            one.transport.send(other.peer_id, DialBack(one.addresses[0].port))
        one.transport.send(other.peer_id, Cancel(b"after them"))
        await other.until_seen("received")
        other.transport.send(one.peer_id, DialBack(other.addresses[0].port))
        assert "only who dialled" in str(await one.until_seen("down"))
        assert dialled == [one.addresses[0].endpoint]


async def test_a_crowd_has_others_dialled_back_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of it has this node wait for as long as a handshake may take."""
    dialled: list[PeerId] = []

    async def answers(sockets: Sockets, peer: PeerId, endpoint: str) -> None:
        dialled.append(peer)
        await asyncio.Event().wait()

    monkeypatch.setattr("overlay.transport.dialback.answers", answers)
    async with mesh(2) as (one, other):
        await linked(one, other)
        line = other.transport._links.line(one.peer_id)
        assert line is not None
        dial_backs = other.transport._dial_backs
        line.link.lineage, lineage = (ANN, BOB), line.link.lineage
        crowd = [NodeKey.from_seed(bytes([number]) * 32).peer_id for number in range(10, 40)]
        for peer in crowd:
            dial_backs.dial(line, peer, 7710)
        line.link.lineage = lineage
        dial_backs.dial(line, one.peer_id, 7710)
        await eventually(lambda: one.peer_id in dialled)
        assert len(dialled) < DIAL_BACKS_MAX


async def test_closing_gives_up_what_is_under_way() -> None:
    async with mesh(2) as (one, other):
        await linked(one, other)
        # Where nobody keeps a writer, newer versions of Python close its connection.
        kept: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _, writer: kept.append(writer), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        one.transport.send(other.peer_id, DialBack(port))
        await eventually(lambda: bool(other.transport._dial_backs._tasks))
        await other.transport.close()
        assert not other.transport._dial_backs._tasks
        silent.close()
