"""What waits to be read, and whose lines end when it is too much: without sockets."""

from __future__ import annotations

import pytest

from overlay.identity.peer_id import PeerId
from overlay.limits import PEER_MESSAGES_BURST
from overlay.transport import reading
from overlay.transport.reading import Reading
from tests.overlay.transport.test_links import End, joined


async def test_a_crowd_of_which_a_little_waits_each_has_no_other_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of whom a long prompt waits there may be more than of each of them."""
    monkeypatch.setattr(reading, "ALL_PARKED_BYTES_MAX", 20_000)
    here, head, friend = (End(number) for number in range(1, 4))
    crowd = [End(number, head) for number in range(10, 15)]
    lines = {other.peer: (await joined(here, other))[0] for other in (*crowd, friend)}
    cut: list[PeerId] = []

    def on_excess(peer: PeerId, why: str) -> None:
        cut.append(peer)
        inboxes.over(lines[peer])

    inboxes = Reading(lambda line, data, now: None, on_excess, lines)
    for peer, line in lines.items():
        inboxes.arrived(line, peer, b"")
        inboxes.charge(peer, 100 * PEER_MESSAGES_BURST)
    for other, size in zip((friend, *crowd), (5000, 3000, 3000, 3900, 3000, 3000), strict=True):
        inboxes.arrived(lines[other.peer], other.peer, bytes(size))
    assert cut == [crowd[2].peer]
    assert friend.peer in inboxes.slowed()
