"""What a node says of where it is, while its machine moves."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from typing import Any, cast
from unittest.mock import Mock

import pytest

from overlay.identity.multiaddr import Multiaddr
from overlay.limits import ADDRESSES_MAX, INTERFACES_INTERVAL_S
from overlay.transport.lan import LanDiscovery
from overlay.transport.port_mapping import PortMapping
from overlay.transport.transport import Transport
from overlay.whereabouts import Whereabouts
from tests.overlay.transport.nodes import PATIENCE_S

BOUND = (Multiaddr.of("0.0.0.0", 7710),)
HOME = (Multiaddr.of("10.0.0.5", 7710), Multiaddr.of("127.0.0.1", 7710))
TRAIN = (Multiaddr.of("172.16.0.9", 7710), Multiaddr.of("127.0.0.1", 7710))
ROUTER = Multiaddr.of("198.51.100.1", 7710)
SEEN = Multiaddr.of("198.51.100.2", 7710)


class Machine:
    """One that moves, with a transport and a router that say nothing of themselves."""

    def __init__(self) -> None:
        self.own: tuple[Multiaddr, ...] = HOME
        self.seen: tuple[Multiaddr, ...] = ()
        self.external: Multiaddr | None = None
        self.moves: list[tuple[Multiaddr, ...]] = []
        self.followed: list[tuple[Multiaddr, ...]] = []

    def public(self) -> tuple[Multiaddr, ...]:
        return self.seen

    def moved(self, own: tuple[Multiaddr, ...]) -> None:
        self.moves.append(own)

    def follow(self, own: tuple[Multiaddr, ...]) -> None:
        self.followed.append(own)

    async def close(self) -> None:
        pass


class Lan:
    """The announcements of one node, each for as long as it stands."""

    def __init__(self) -> None:
        self.standing: list[tuple[Multiaddr, ...]] = []
        self.changed = asyncio.Event()

    def discovery(self, addresses: Sequence[Multiaddr]) -> Any:
        return _Announcement(self, tuple(addresses))

    async def until(self, standing: list[tuple[Multiaddr, ...]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.standing != standing:
                self.changed.clear()
                await self.changed.wait()


class _Announcement:
    def __init__(self, lan: Lan, addresses: tuple[Multiaddr, ...]) -> None:
        self._lan = lan
        self._addresses = addresses

    async def start(self) -> None:
        await asyncio.sleep(0)
        self._lan.standing.append(self._addresses)
        self._lan.changed.set()

    async def close(self) -> None:
        await asyncio.sleep(0)
        self._lan.standing.remove(self._addresses)
        self._lan.changed.set()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(
        "overlay.whereabouts.reachable_addresses",
        lambda bound: machine.own if tuple(bound) == BOUND else (),
    )
    return machine


def whereabouts(
    machine: Machine,
    lan: Lan | None = None,
    *,
    router: bool = False,
    announced: Sequence[Multiaddr] = (),
) -> Whereabouts:
    return Whereabouts(
        cast(Transport, machine),
        announced,
        None if lan is None else cast("type[LanDiscovery]", lan.discovery),
        cast(PortMapping, machine) if router else None,
    )


async def test_routers_come_after_the_first_of_the_machines_own(machine: Machine) -> None:
    where = whereabouts(machine, router=True)
    await where.start(BOUND, 0.0)
    assert where.look(0.0) == HOME
    machine.seen, machine.external = (SEEN,), ROUTER
    assert where.look(0.1) == (HOME[0], ROUTER, SEEN, HOME[1])
    machine.external = SEEN
    assert where.look(0.2) == (HOME[0], SEEN, HOME[1]), "once"
    machine.seen = tuple(Multiaddr.of("198.51.100.3", port) for port in range(1, 20))
    assert len(where.look(0.3)) == ADDRESSES_MAX


async def test_what_the_owner_announces_comes_first_of_all_others(machine: Machine) -> None:
    named = Multiaddr.of("home.example.org", 7710)
    where = whereabouts(machine, announced=[named])
    await where.start(BOUND, 0.0)
    machine.seen = (SEEN,)
    assert where.look(0.0) == (HOME[0], named, SEEN, HOME[1])


async def test_a_machine_that_moves_says_so(machine: Machine) -> None:
    where = whereabouts(machine, router=True)
    await where.start(BOUND, 0.0)
    machine.own = TRAIN
    assert where.look(INTERFACES_INTERVAL_S / 2) == HOME, "looking takes time"
    assert where.look(INTERFACES_INTERVAL_S) == TRAIN
    assert machine.moves == [TRAIN]
    assert machine.followed == [HOME, TRAIN]
    assert where.look(2 * INTERFACES_INTERVAL_S) == TRAIN
    assert machine.moves == [TRAIN], "once"


async def test_a_system_that_cannot_say_moves_nobody(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = whereabouts(machine)
    await where.start(BOUND, 0.0)
    failing = Mock(side_effect=OSError(errno.EMFILE, "too many open files"))
    monkeypatch.setattr("overlay.whereabouts.reachable_addresses", failing)
    assert where.look(INTERFACES_INTERVAL_S) == HOME
    failing.assert_called_once()
    assert machine.moves == []


async def test_the_lan_hears_of_the_latest_address(machine: Machine) -> None:
    lan = Lan()
    where = whereabouts(machine, lan)
    await where.start(BOUND, 0.0)
    assert lan.standing == [HOME]
    machine.own = TRAIN
    where.look(INTERFACES_INTERVAL_S)
    machine.own = (*HOME, *TRAIN)
    where.look(2 * INTERFACES_INTERVAL_S)
    await lan.until([machine.own])
    where.hide()
    await lan.until([])
    machine.own = HOME
    where.look(3 * INTERFACES_INTERVAL_S)
    await where.close()
    assert lan.standing == []


@pytest.mark.parametrize("at", [HOME, TRAIN], ids=["announced", "being announced"])
async def test_closing_takes_back_what_is_announced(
    machine: Machine, at: tuple[Multiaddr, ...]
) -> None:
    lan = Lan()
    where = whereabouts(machine, lan)
    await where.start(BOUND, 0.0)
    machine.own = at
    where.look(INTERFACES_INTERVAL_S)
    await where.close()
    assert lan.standing == []
