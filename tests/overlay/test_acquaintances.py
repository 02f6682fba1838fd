"""Whom a node dials, however many members somebody makes up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from overlay import acquaintances
from overlay.admission.handshake import LocalNode
from overlay.identity.certificates import found_mesh
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.mesh import Mesh
from tests.overlay.identity.strategies import key
from tests.support.bare_mesh import bare_mesh

AT = (Multiaddr("ip4", "192.0.2.7", 7710),)
ROOM = 4
PEERS = [key(number).peer_id for number in range(1, 20)]


class Dialling:
    """A mesh that has room for few, and whom it dials."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(acquaintances, "MEMBERS_MAX", ROOM)
        founder = key(100)
        self.mesh: Mesh = bare_mesh(LocalNode(founder, found_mesh(founder, bytes(32)), "me", ()))
        self.dialled: list[PeerId] = []
        self.at: list[tuple[Multiaddr, ...]] = []
        monkeypatch.setattr(self.mesh.transport, "dial", self.dial)
        monkeypatch.setattr(
            self.mesh.transport, "hang_up", lambda peer, reason: self.dialled.remove(peer)
        )

    def dial(self, peer: PeerId, at: Sequence[Multiaddr]) -> None:
        self.dialled.append(peer)
        self.at.append(tuple(at))


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Dialling:
    return Dialling(monkeypatch)


def test_of_too_many_the_one_gives_way_that_nothing_is_known_of(one: Dialling) -> None:
    known, *others = PEERS
    one.mesh.member.gossip.alive(known, 0.0)
    for peer in (known, *others):
        one.mesh.meet(peer, AT)
    assert one.dialled == [known, *others[-(ROOM - 1) :]]


def test_who_is_made_up_on_the_lan_gives_way_to_who_is_found_there_later(one: Dialling) -> None:
    """Whoever was a member once can announce any number of others, at addresses of nobody."""
    known, *others = PEERS
    one.mesh.member.gossip.alive(known, 0.0)
    for peer in (known, *others):
        one.mesh.acquaintances.found_on_lan(peer, AT)
    assert one.dialled == [known, *others[-(ROOM - 1) :]]


def test_whom_one_knows_makes_no_room_for_others(one: Dialling) -> None:
    for peer in PEERS[:ROOM]:
        one.mesh.member.gossip.alive(peer, 0.0)
    for peer in PEERS:
        one.mesh.meet(peer, AT)
    assert one.dialled == PEERS[:ROOM]


def test_who_was_met_already_needs_no_more_room(one: Dialling) -> None:
    for peer in (*PEERS[:ROOM], *PEERS[:ROOM]):
        one.mesh.meet(peer, AT)
    assert one.dialled == [*PEERS[:ROOM], *PEERS[:ROOM]]


def test_who_tells_no_address_is_found_where_it_was(one: Dialling) -> None:
    here = Multiaddr("ip4", "10.0.0.7", 7710)
    for addresses in (AT, ()):
        one.mesh.meet(PEERS[0], addresses)
    one.mesh.acquaintances.found_on_lan(PEERS[0], [here])
    assert one.at == [AT, (here, *AT)]


def test_of_those_that_are_members_no_more_the_latest_are_remembered(one: Dialling) -> None:
    known = one.mesh.acquaintances
    for peer in PEERS:
        one.mesh.meet(peer, AT)
        known.exclude(peer)
    assert one.dialled == []
    assert [*known.excluded] == PEERS[-ROOM:]
    known.found_on_lan(PEERS[-1], AT)
    assert one.dialled == []
    known.readmit(PEERS[-1])
    known.found_on_lan(PEERS[-1], AT)
    assert one.dialled == PEERS[-1:]
