"""How much is relayed, and whom a node asks to relay. No sockets; the test owns the clock."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress

import pytest

from overlay.errors import LimitExceeded
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    MEMBERS_MAX,
    REDIAL_MAX_S,
    RELAY_AFTER_S,
    RELAY_BYTES_BURST,
    RELAY_BYTES_PER_S,
    RELAY_MESSAGES_BURST,
    RELAY_SENDERS_IN_ALL,
    RELAY_SENDERS_PER_BRANCH,
    RELAY_SENDERS_PER_RECEIVER,
    RELAYED_MESSAGE_BYTES_MAX,
)
from overlay.transport import relaying
from overlay.transport.detours import Detours
from overlay.transport.relaying import Allowance

ANN, BOB, CYD, DAN, EVE = (NodeKey.from_seed(bytes([n]) * 32).peer_id for n in range(1, 6))


def test_a_sender_gets_its_bytes_and_no_more_until_they_have_flowed_in_again() -> None:
    allowance = Allowance()
    allowance.take(ANN, BOB, RELAY_BYTES_BURST + RELAY_BYTES_PER_S, 0.0, head=ANN)
    with pytest.raises(LimitExceeded, match="1024 KiB"):
        allowance.take(ANN, CYD, 1, 0.9, head=ANN)
    allowance.take(ANN, BOB, 1, 1.0, head=ANN)
    assert (allowance.messages, allowance.refused) == (2, 1)
    assert allowance.bytes == RELAY_BYTES_BURST + RELAY_BYTES_PER_S + 1


def test_a_sender_gets_its_messages_and_no_more() -> None:
    allowance = Allowance()
    for _ in range(RELAY_MESSAGES_BURST + 1):
        allowance.take(ANN, BOB, 1, 0.0, head=ANN)
    with pytest.raises(LimitExceeded):
        allowance.take(ANN, BOB, 1, 0.0, head=ANN)
    allowance.take(CYD, BOB, 1, 0.0, head=CYD)


def test_a_receiver_is_not_buried_by_many_senders() -> None:
    allowance = Allowance()
    for sender in (ANN, CYD, DAN)[:RELAY_SENDERS_PER_RECEIVER]:
        allowance.take(sender, BOB, RELAY_BYTES_BURST + 1, 0.0, head=sender)
    with pytest.raises(LimitExceeded):
        allowance.take(EVE, BOB, 1, 0.0, head=EVE)
    allowance.take(EVE, DAN, 1, 0.0, head=EVE)


def test_the_room_for_a_receiver_is_told_in_percent() -> None:
    allowance = Allowance()
    assert allowance.room(BOB, 0.0, head=EVE) == 100
    for sender in (ANN, CYD):
        allowance.take(sender, BOB, RELAY_BYTES_BURST // 2, 0.0, head=sender)
    assert allowance.room(BOB, 0.0, head=EVE) == 50
    allowance.take(ANN, BOB, RELAYED_MESSAGE_BYTES_MAX + RELAY_BYTES_BURST, 0.0, head=ANN)
    assert allowance.room(BOB, 0.0, head=EVE) == 0
    assert allowance.room(ANN, 0.0, head=EVE) == 46, "of all that it relays"
    assert allowance.room(BOB, 1000.0, head=EVE) == 100


def test_a_crowd_does_not_take_what_is_there_for_a_receiver() -> None:
    """It need not slow down, and would end the circuits of all others to that receiver."""
    allowance = Allowance()
    crowd = [NodeKey.from_seed(bytes([n]) * 32).peer_id for n in range(10, 50)]
    refused = 0
    for tenth in range(100):
        now = tenth / 10
        for each in crowd:
            try:
                allowance.take(each, BOB, RELAY_BYTES_PER_S // 2, now, head=ANN)
            except LimitExceeded:
                refused += 1
        allowance.take(CYD, BOB, RELAY_BYTES_PER_S // 20, now, head=CYD)
    assert refused
    assert allowance.room(BOB, now, head=ANN) == 0
    assert allowance.room(BOB, now, head=CYD) > 0


@pytest.mark.parametrize(
    ("heads", "granted"),
    [(1, RELAY_SENDERS_PER_BRANCH), (10, RELAY_SENDERS_IN_ALL)],
    ids=["of one branch", "of many"],
)
def test_however_many_send_to_however_many_the_relay_keeps_some_of_its_uplink(
    heads: int, granted: int
) -> None:
    allowance = Allowance()
    crowd = [NodeKey.from_seed(bytes([n]) * 32).peer_id for n in range(10, 50)]
    for number, (sender, receiver) in enumerate(itertools.pairwise(crowd)):
        with suppress(LimitExceeded):
            allowance.take(sender, receiver, RELAY_BYTES_BURST, 0.0, head=crowd[number % heads])
    # Each may be overdrawn by the last that is taken.
    assert allowance.bytes == (granted + 1) * RELAY_BYTES_BURST
    assert allowance.room(BOB, 0.0, head=crowd[0]) == 0
    assert (allowance.room(BOB, 0.0, head=CYD) > 0) == (heads == 1)


def test_whom_nothing_is_relayed_of_is_forgotten_in_the_end() -> None:
    allowance = Allowance()
    for number in range(MEMBERS_MAX + 10):
        sender = NodeKey.from_seed(number.to_bytes(32, "big")).peer_id
        allowance.take(sender, BOB, 1, float(number), head=sender)
    assert len(allowance._senders) <= MEMBERS_MAX


def test_who_has_been_quiet_is_forgotten_before_who_had_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relaying, "MEMBERS_MAX", 3)
    allowance = Allowance()
    for sender in (ANN, CYD, DAN):
        allowance.take(sender, BOB, 1, 0.0, head=sender)
    allowance.take(ANN, BOB, RELAY_BYTES_BURST + RELAY_BYTES_PER_S, 100.0, head=ANN)
    allowance.take(EVE, BOB, 1, 100.0, head=EVE)
    with pytest.raises(LimitExceeded):
        allowance.take(ANN, BOB, 1, 100.0, head=ANN)


def detours() -> Detours:
    return Detours(random.Random(7))


def test_a_direct_link_gets_its_time() -> None:
    search = detours()
    assert search.due([ANN], [BOB], 10.0) == []
    assert search.due([ANN], [BOB], 10.0 + RELAY_AFTER_S - 0.1) == []
    assert search.due([ANN], [BOB], 10.0 + RELAY_AFTER_S) == [(ANN, BOB)]
    # And so does the relay.
    assert search.due([ANN], [BOB, CYD], 20.0) == []


def test_relays_are_asked_in_turn_and_then_again_ever_later() -> None:
    search = detours()
    search.due([ANN], [BOB, CYD], 0.0)
    asked, pauses = [], []
    now = last = RELAY_AFTER_S
    while now < 500:
        for peer, relay in search.due([ANN], [BOB, CYD], now):
            asked.append(relay)
            pauses.append(now - last)
            last = now
            search.failed(peer, relay)
        now += 0.25
    assert asked[:6] == [BOB, CYD] * 3
    assert pauses[1] == 0.25
    assert max(pauses[:4]) < 1
    assert REDIAL_MAX_S / 2 <= max(pauses[-2:]) <= REDIAL_MAX_S + 0.5


def test_of_many_that_cannot_relay_some_are_asked_and_then_others_get_their_turn() -> None:
    search = detours()
    relays = [NodeKey.from_seed(bytes([n]) * 32).peer_id for n in range(10, 40)]
    search.due([ANN], relays, 0.0)
    [(_, relay)] = search.due([ANN], relays, 5.0)
    assert search.go_on(ANN, relays) is None, "that one has not refused yet"
    asked: list[PeerId | None] = [relay]
    while asked[-1] is not None:
        search.failed(ANN, asked[-1])
        asked.append(search.go_on(ANN, relays))
    assert asked == [*relays[: len(asked) - 1], None]
    assert 1 < len(asked) < len(relays)
    assert search.due([ANN], relays, 6.0) == [(ANN, relays[len(asked) - 1])]


def test_a_crowd_that_nobody_can_relay_to_holds_nobody_up() -> None:
    """Members can make up any number of peers that are up."""
    search = detours()
    crowd = [NodeKey.from_seed(n.to_bytes(32, "big")).peer_id for n in range(300)]
    relays = [NodeKey.from_seed(bytes([n]) * 32).peer_id for n in range(10, 110)]
    asked = 0
    for second in range(100):
        waiting = search.due(crowd, relays, float(second))
        while waiting:
            peer, relay = waiting.pop()
            asked += 1
            search.failed(peer, relay)
            if (following := search.go_on(peer, relays)) is not None:
                waiting.append((peer, following))
    assert 300 < asked <= 100 * 64
    for peer, relay in search.due([*crowd, ANN], relays, 100.0):
        search.failed(peer, relay)
    assert search.due([*crowd, ANN], relays, 100.0 + RELAY_AFTER_S)[0][0] == ANN


def test_a_relay_that_appears_is_asked_at_once() -> None:
    search = detours()
    for second in range(100):
        assert search.due([ANN], [], float(second)) == []
    assert search.due([ANN], [BOB], 100.0) == [(ANN, BOB)]


def found() -> Detours:
    """Ann has a link through Bob."""
    search = detours()
    search.due([ANN], [BOB, CYD], 0.0)
    assert search.due([ANN], [BOB, CYD], 5.0) == [(ANN, BOB)]
    assert search.due([], [BOB, CYD], 6.0, {ANN}) == []
    return search


def test_who_loses_a_relayed_link_is_sought_at_once_and_elsewhere_first() -> None:
    search = found()
    search.failed(ANN, BOB)
    assert search.due([ANN], [BOB, CYD], 6.0) == [(ANN, CYD)]


def test_who_comes_back_with_its_relay_is_sought_at_once() -> None:
    search = found()
    search.failed(ANN, BOB)
    for second in range(7, 60):
        assert search.due([], [], float(second)) == []
    assert search.due([ANN], [BOB], 60.0) == [(ANN, BOB)]


def test_who_had_a_direct_link_since_is_given_time_for_another() -> None:
    search = found()
    assert search.due([], [ANN, BOB], 7.0) == []
    assert search.due([ANN], [BOB], 8.0) == []
    assert search.due([ANN], [BOB], 8.0 + RELAY_AFTER_S) == [(ANN, BOB)]


def test_who_was_found_and_is_gone_is_not_remembered_for_ever() -> None:
    search = found()
    search.failed(ANN, BOB)
    everybody = [NodeKey.from_seed(n.to_bytes(32, "big")).peer_id for n in range(MEMBERS_MAX)]
    search.due(everybody, [BOB], 7.0)
    search.due(everybody, [BOB], 8.0)
    assert len(search._searches) == MEMBERS_MAX
