"""What leaves through one relay: what is sealed first leaves first, however full its link is."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from overlay.admission.handshake import Role
from overlay.identity.keys import NodeKey
from overlay.transport import circuits
from overlay.transport.circuits import _Outlet, _Way
from overlay.wire.between_transports import Relay
from overlay.wire.codec import decode
from tests.overlay.transport.nodes import eventually

RELAY, LEFT, RIGHT = (NodeKey.from_seed(bytes([n]) * 32).peer_id for n in range(1, 4))


class Circuit:
    """Numbers what it seals, as a real one does: the other end gives up where one is missing."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def seal(self, data: bytes) -> bytes:
        return b"%d " % next(self._numbers) + data


class ToRelay:
    """The link to the relay, which may be full, and is so without a word."""

    def __init__(self) -> None:
        self.full = False
        self.left: list[tuple[_Way, bytes]] = []
        self.ways = {
            peer: _Way(Role.DIALER, RELAY, peer, Circuit(), 0.0)  # type: ignore[arg-type]
            for peer in (LEFT, RIGHT)
        }
        self.outlet = _Outlet(lambda: self)  # type: ignore[arg-type, return-value]

    def transmit(self, data: bytes) -> bool:
        message = decode(data)
        assert isinstance(message, Relay)
        if not self.full:
            self.left.append((self.ways[message.peer], message.payload))
        return not self.full

    def left_for(self, way: _Way) -> list[bytes]:
        return [payload for each, payload in self.left if each is way]

    async def empty(self) -> None:
        await eventually(lambda: not any(map(self.outlet.waits, self.ways.values())))


def numbered(*messages: bytes) -> list[bytes]:
    return [b"%d " % number + message for number, message in enumerate(messages)]


def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> float:
    """So that the relay grants nothing more, until that is undone. Returns what the time is."""
    now = time.monotonic()
    monkeypatch.setattr(circuits, "time", SimpleNamespace(monotonic=lambda: now))
    return now


async def test_what_a_link_says_itself_goes_before_what_waits_but_not_before_what_is_sealed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay = ToRelay()
    no_time_passes(monkeypatch)
    way = relay.ways[LEFT]
    sent = [b"%d" % number for number in range(1000)]
    assert all(relay.outlet.send(way, each) for each in sent)
    at_once = len(relay.left)
    assert 0 < at_once < len(sent), "the relay grants only so much at once"
    assert relay.outlet.say(way, b"ping")
    relay.full = True
    assert relay.outlet.say(way, b"sealed, and kept")
    assert relay.outlet.say(way, b"in its turn")
    assert len(relay.left) == at_once + 1
    monkeypatch.undo()
    relay.full = False
    await relay.empty()
    said = [*sent[:at_once], b"ping", b"sealed, and kept", *sent[at_once:], b"in its turn"]
    assert relay.left_for(way) == numbered(*said)


@pytest.mark.parametrize("speak", [_Outlet.send, _Outlet.say])
@pytest.mark.parametrize("count", [1, 2])
async def test_what_finds_the_link_full_leaves_once_it_is_not_and_is_waited_for_till_then(
    speak: Callable[[_Outlet, _Way, bytes], bool], count: int
) -> None:
    relay = ToRelay()
    ways, others = [*relay.ways.values()][:count], [*relay.ways.values()][count:]
    relay.full = True
    for way in ways:
        assert speak(relay.outlet, way, b"last word")
    assert all(map(relay.outlet.waits, ways))
    assert not any(map(relay.outlet.waits, others))
    assert not relay.outlet.idle(time.monotonic() + 1e6)
    relay.full = False
    await relay.empty()
    assert all(relay.left_for(way) == [b"0 last word"] for way in ways)


async def test_what_links_say_themselves_without_end_waits_its_turn_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay = ToRelay()
    no_time_passes(monkeypatch)
    way = relay.ways[LEFT]
    words = [b"%d" % number for number in range(1000)]
    assert all(relay.outlet.say(way, word) for word in words)
    assert len(relay.left) < len(words)
    monkeypatch.undo()
    await relay.empty()
    assert relay.left_for(way) == numbered(*words)


async def test_of_a_circuit_that_is_closed_nothing_leaves_any_more_and_of_others_all_does() -> None:
    relay = ToRelay()
    left, right = relay.ways.values()
    relay.full = True
    for way in (left, right, left):
        relay.outlet.send(way, b"message")
    relay.outlet.close(left)
    relay.outlet.close(left)
    assert not relay.outlet.waits(left)
    relay.full = False
    await relay.empty()
    assert [way for way, _ in relay.left] == [right]
    # What is sealed of another one stays.
    relay.full = True
    relay.outlet.send(right, b"more")
    relay.outlet.close(left)
    relay.full = False
    await relay.empty()
    assert relay.left_for(right) == numbered(b"message", b"more")
    relay.outlet.close(right)
    assert relay.outlet.idle(time.monotonic() + 1e6)


async def test_what_has_left_of_late_is_remembered_although_its_circuit_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The relay remembers it, too: it would refuse what a new outlet lets leave."""
    relay = ToRelay()
    now = no_time_passes(monkeypatch)
    way = relay.ways[LEFT]
    assert relay.outlet.send(way, b"message")
    relay.outlet.close(way)
    assert not relay.outlet.idle(now)
    assert relay.outlet.idle(now + 1e6)


async def test_however_much_is_sent_and_said_it_comes_back_for_the_rest_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay = ToRelay()
    no_time_passes(monkeypatch)
    timers: list[object] = []

    def call_later(*_: object) -> object:
        timers.append(object())
        return timers[-1]

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
    for way in relay.ways.values():
        for number in range(500):
            assert relay.outlet.send(way, b"%d" % number)
    assert len(timers) == 1
    relay.full = True
    assert relay.outlet.say(relay.ways[LEFT], b"sealed, and kept")
    assert relay.outlet.say(relay.ways[LEFT], b"in its turn")
    assert len(timers) == 1


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_finds_the_link_full_all_leaves_in_the_order_of_its_numbers(
    seed: int,
) -> None:
    relay, rng = ToRelay(), random.Random(seed)
    said: dict[_Way, list[Any]] = {way: [] for way in relay.ways.values()}
    for number in range(300):
        relay.full = rng.random() < 0.3
        way = rng.choice([*said])
        speak = rng.choice([relay.outlet.send, relay.outlet.say])
        assert speak(way, b"%d" % number)
        said[way].append(b"%d" % number)
    relay.full = False
    await relay.empty()
    for way, messages in said.items():
        found = [payload.split() for payload in relay.left_for(way)]
        assert [int(number) for number, _ in found] == [*range(len(messages))]
        assert sorted(message for _, message in found) == sorted(messages)
