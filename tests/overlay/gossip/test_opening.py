"""With whom exchanges are opened: by chance, and with whom nothing was heard of for long."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from overlay.gossip.effects import PeerState, Send
from overlay.gossip.gossip import Gossip
from overlay.gossip.opening import NEGLECTED_INTERVALS, Opener
from overlay.identity.peer_id import PeerId
from tests.overlay.gossip.mesh import peer_id

FRIENDS = [peer_id(number) for number in (1, 2, 3)]
HEAD = peer_id(9)
CROWD = [peer_id(number) for number in range(10, 350)]
KEY = b"load"


def lineage_of(peer: PeerId) -> tuple[PeerId, ...]:
    return (HEAD, peer) if peer in CROWD else (peer,)


def opener(linked: Sequence[PeerId]) -> Opener:
    found = Opener(1.0, random.Random(1))
    for peer in linked:
        found.linked(peer, lineage_of(peer), 0.0)
    return found


def test_nobody_is_neglected_of_whom_something_was_heard() -> None:
    found = opener(FRIENDS)
    assert found.neglected(lambda peer, now: NEGLECTED_INTERVALS, 100.0) == []


def test_who_has_a_link_for_a_moment_only_is_not_neglected_yet() -> None:
    found = opener(FRIENDS)
    assert found.neglected(lambda peer, now: now, NEGLECTED_INTERVALS) == []
    assert found.neglected(lambda peer, now: now, NEGLECTED_INTERVALS + 1) != []


def test_who_is_neglected_is_asked_in_turns_by_branches_until_its_link_is_gone() -> None:
    found = opener([*FRIENDS, *CROWD])
    rounds = range(100, 200)
    asked = [found.neglected(lambda peer, now: now, float(each)) for each in rounds]
    counts = Counter(peer for [peer] in asked)
    assert [counts[friend] for friend in FRIENDS] == [25, 25, 25]
    assert sum(peer in counts for peer in CROWD) == 25, "and each of the crowd in its turn"
    for peer in [*FRIENDS, *CROWD]:
        found.unlinked(peer)
    assert found.neglected(lambda peer, now: now, 200.0) == []


def test_a_crowd_that_says_nothing_does_not_keep_friends_from_hearing_of_each_other() -> None:
    """It is up, as links and heartbeats tell; nine in ten exchanges and more go to it."""
    nodes: dict[PeerId, Gossip] = {}
    for number, me in enumerate(FRIENDS):
        node = nodes[me] = Gossip(me, 1_000_000 + number, random.Random(number), 0.0)
        for other in [*FRIENDS, *CROWD]:
            if other != me:
                node.prove(other)
                node.alive(other, 0.0, lineage=lineage_of(other))
    ages_s: list[float] = []
    for second in range(1, 61):
        now = float(second)
        for me, node in nodes.items():
            for each in CROWD:
                node._liveness.alive(each, now)
            node.set(KEY, str(second).encode(), now)
            linked = [peer for peer in [*FRIENDS, *CROWD] if peer != me]
            said = [(me, effect) for effect in node.tick(now + 0.5, linked)]
            while said:
                sender, effect = said.pop(0)
                if isinstance(effect, Send) and effect.peer in nodes:
                    answers = nodes[effect.peer].receive(sender, effect.message, now + 0.5)
                    said += [(effect.peer, answer) for answer in answers]
        for me, node in nodes.items():
            for other in set(FRIENDS) - {me}:
                assert node.states()[other] is PeerState.UP
                ages_s.append(now - int(node.record(other, KEY) or 0))
    assert max(ages_s) <= 3 * NEGLECTED_INTERVALS
