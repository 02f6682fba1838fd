"""Whatever a member tells of others, and to whom: once it has stopped, all is right again.

`test_forgeries` says what its lies do until then.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.gossip.effects import GossipMessage, PeerState
from overlay.gossip.records import CARD, LOAD, block_key
from overlay.gossip.replica import INCARNATION_MAX
from overlay.wire.anti_entropy import (
    COUNTER_MAX,
    Change,
    DigestEntry,
    GossipAck,
    OriginDelta,
    Syn,
    SynAck,
)
from tests.overlay.gossip.mesh import INTERVAL_S, Mesh, deliver_quietly

NODES = 4
#: After the last lie. A new incarnation may have to wait for ten, and so may the one after it.
ROUNDS_TO_HEAL = 40
FAR = COUNTER_MAX - 1


class Lie(NamedTuple):
    """About one honest node to one. Counters are told in relation to the truth."""

    to: int
    about: int
    opens: bool
    incarnation: int
    version: int
    gc_version: int
    heartbeat: int = 0
    #: None: a digest tells it; or else a delta, with these changes.
    changes: tuple[tuple[bytes, bytes | None], ...] | None = None
    reset: bool = False
    #: How long the mesh then runs.
    rounds: float = 0.0


honest = st.integers(1, NODES - 1)
off = st.sampled_from([0, 0, 0, 0, 0, -1, 1, 60, FAR])
change = st.tuples(
    st.sampled_from([CARD, LOAD, block_key(1), block_key(9)]), st.sampled_from([None, b"forged"])
)
changes = st.lists(change, max_size=3, unique_by=lambda each: each[0]).map(tuple)
lie = st.builds(
    Lie,
    to=honest,
    about=honest,
    opens=st.booleans(),
    incarnation=off,
    version=off,
    gc_version=off,
    heartbeat=off,
    changes=st.none() | changes,
    reset=st.booleans(),
    rounds=st.sampled_from([0.0, 0.3, 1.0, 6.0]),
)


def told(lie: Lie, truth: DigestEntry) -> GossipMessage:
    def near(counter: int, off: int, most: int = FAR) -> int:
        return min(most, max(0, counter + off))

    incarnation = near(truth.incarnation, lie.incarnation, INCARNATION_MAX)
    version = near(truth.version, lie.version)
    gc_version = near(truth.gc_version, lie.gc_version)
    if lie.changes is None:
        heartbeat = near(truth.heartbeat, lie.heartbeat)
        entry = DigestEntry(truth.origin, incarnation, heartbeat, version, gc_version)
        return Syn((entry,)) if lie.opens else SynAck((entry,), ())
    after = before = 0 if lie.reset else version
    numbered = tuple(
        Change(key, before + n, value) for n, (key, value) in enumerate(lie.changes, 1)
    )
    last = max(version, before + len(numbered))
    delta = OriginDelta(truth.origin, incarnation, after, lie.reset, numbered, last, gc_version)
    return SynAck((), (delta,)) if lie.opens else GossipAck((delta,))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.lists(lie, min_size=1, max_size=8))
@example(1, [Lie(1, 2, opens=True, incarnation=0, version=FAR, gc_version=0)])
@example(1, [Lie(1, 2, True, 0, 0, 0, changes=((CARD, b"forged"),))])
@example(1, [Lie(1, 2, True, incarnation=0, version=0, gc_version=0, heartbeat=FAR, rounds=6.0)])
def test_what_a_liar_told_heals(seed: int, lies: list[Lie]) -> None:
    mesh = Mesh(NODES, seed)
    liar, *others = mesh.ids
    for peer, node in mesh.nodes.items():
        mesh.set(peer, CARD, b"card")
        for block in range(4):
            mesh.set(peer, block_key(block), b"")
        for other in mesh.linked[peer]:
            node.gossip.alive(other, mesh.now)

    def live(rounds: float) -> None:
        for peer in mesh.ids:
            mesh.set(peer, LOAD, b"%f" % mesh.now)
        mesh.run(rounds)

    live(3)
    for each in lies:
        message = told(each, mesh.nodes[others[each.about - 1]].gossip._own.known)
        receiver = others[each.to - 1]
        effects = deliver_quietly(mesh.nodes[receiver].gossip, liar, message, mesh.now)
        mesh._perform(receiver, effects)
        live(each.rounds)
    mesh.kill(liar)
    for _ in range(ROUNDS_TO_HEAL):
        live(1)
    mesh.run(4)
    for reader in others:
        gossip = mesh.nodes[reader].gossip
        for writer in others:
            truth = mesh.nodes[writer]
            assert gossip.incarnation(writer) == truth.gossip.incarnation(writer)
            assert dict(gossip.records(writer)) == truth.truth
            if reader != writer:
                assert gossip.states()[writer] is PeerState.UP
                assert gossip.age_s(writer, mesh.now) < 6 * INTERVAL_S
