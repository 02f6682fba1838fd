"""What gossip promises, one test for each promise, under everything that networks and machines do.

In each: messages are lost, doubled, delayed, reordered; the mesh parts and heals; nodes die, stay
away and restart, some with an emptied home or a wall clock set back; monotonic clocks drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.gossip import compact as compact_module
from overlay.gossip import gossip as gossip_module
from overlay.gossip import opening as opening_module
from overlay.gossip import replica as replica_module
from overlay.gossip.effects import GossipMessage
from overlay.gossip.opening import FANOUT
from overlay.gossip.records import block_key
from overlay.identity.peer_id import PeerId
from overlay.wire import codec
from overlay.wire.anti_entropy import CompactSyn, CompactSynAck, GossipAck, Syn, SynAck
from tests.overlay.gossip.mesh import INTERVAL_S, Faults, Mesh

NODES_MAX = 6
BLOCKS = [block_key(n) for n in range(8)]
#: Small, so that short runs meet partial deltas, early collection and resets.
DELTA_BYTES_MAX = 400
TOMBSTONE_GRACE_S = 3.0
TOMBSTONES_MAX = 3
#: So that compact digests meet counters that differ above the bits that they tell.
LOW_BITS = 4
#: After the last fault: rounds in which everybody must know everything. Six origins with eight
#: records each, at a handful of changes per message, need about ten.
ROUNDS_TO_CONVERGE = 40
#: A digest entry on the wire, at most: a PeerId of 34 bytes, 4 numbers of up to 9, and a head.
ENTRY_BYTES_MAX = 1 + 34 + 4 * 9
#: A row of a compact digest, with its bit in an answer; and the heads and the fingerprint.
ROW_BYTES_MAX = 6 + 1
COMPACT_BYTES_MAX = 3 + 10 + 2 * 3
#: What may follow on what. No way leads back to a CompactSyn, and none is longer than four.
ANSWERS: dict[type[GossipMessage], tuple[type[GossipMessage], ...]] = {
    CompactSyn: (CompactSynAck, Syn),
    CompactSynAck: (GossipAck,),
    Syn: (SynAck,),
    SynAck: (GossipAck,),
    GossipAck: (),
}

#: Its name and what it takes.
Deed = tuple[Any, ...]
Operations = list[tuple[Deed, float]]

number = st.integers(0, NODES_MAX - 1)
deed = st.one_of(
    st.tuples(st.just("cache"), number, st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=5)),
    st.tuples(st.just("evict"), number, st.lists(st.integers(0, 7), min_size=1, max_size=5)),
    st.tuples(st.just("kill"), number),
    st.tuples(st.just("restart"), number, st.sampled_from([0.0, 5.0, 3600.0]), st.booleans()),
    st.tuples(st.just("part"), st.lists(st.integers(0, 2), min_size=NODES_MAX, max_size=NODES_MAX)),
    st.tuples(st.just("heal")),
)
#: What happens, and for how many rounds the mesh then runs.
operation = st.tuples(deed, st.sampled_from([0, 0.3, 1, 2, 5]))
share = st.sampled_from([0.0, 0.3, 0.7])
#: A mesh in a bad network, with clocks of their own.
meshes = st.builds(
    Mesh,
    st.integers(3, NODES_MAX),
    st.integers(0, 2**32),
    st.builds(Faults, share, share, share, delay_s_max=st.sampled_from([0.05, 3.0])),
    rates=st.lists(st.sampled_from([0.8, 0.97, 1.0, 1.03, 1.25]), min_size=3, max_size=NODES_MAX),
)
troubles = given(mesh=meshes, operations=st.lists(operation, min_size=10, max_size=40))
tried = settings(max_examples=100, deadline=None)


@contextmanager
def small_bounds() -> Iterator[None]:
    with (
        patch.object(gossip_module, "DELTA_BYTES_MAX", DELTA_BYTES_MAX),
        patch.object(replica_module, "TOMBSTONE_GRACE_S", TOMBSTONE_GRACE_S),
        patch.object(replica_module, "TOMBSTONES_MAX", TOMBSTONES_MAX),
        patch.object(compact_module, "LOW_BITS", LOW_BITS),
        patch.object(opening_module, "UNLIKE_INTERVALS", 0.0),
    ):
        yield


def perform(mesh: Mesh, deed: Deed) -> None:
    name, *arguments = deed
    if name == "heal":
        mesh.parts = dict.fromkeys(mesh.ids, 0)
        return
    if name == "part":
        mesh.parts = dict(zip(mesh.ids, arguments[0], strict=False))
        return
    peer = mesh.ids[arguments[0] % len(mesh.ids)]
    node = mesh.nodes[peer]
    if name == "restart":
        mesh.start(peer, set_back_s=arguments[1], home_lost=arguments[2])
    elif name == "kill":
        mesh.kill(peer)
    elif name == "cache" and node.running:
        for block in arguments[1]:
            # Each life says something else, so that it can be told which one is heard.
            mesh.set(peer, block, b"life %d" % node.life)
    elif name == "evict" and node.running:
        for choice in arguments[1]:
            if node.truth:
                mesh.delete(peer, sorted(node.truth)[choice % len(node.truth)])


def endure(mesh: Mesh, operations: Operations, check: Callable[[], None] = lambda: None) -> None:
    """Go through all operations and then, without faults, to rest."""
    with small_bounds():
        for deed, rounds in operations:
            perform(mesh, deed)
            mesh.run(rounds)
            check()
        mesh.heal()
        for _ in range(ROUNDS_TO_CONVERGE):
            mesh.run(1)
            if mesh.converged():
                break
        # What the network still held back has arrived by then, too.
        mesh.run(mesh.faults.held_back_s / INTERVAL_S)
        check()


@tried
@troubles
def test_convergence(mesh: Mesh, operations: Operations) -> None:
    """All running nodes come to know all records of each other, and their effects told so."""
    endure(mesh, operations)
    assert mesh.converged()
    for reader in mesh.running():
        for writer in mesh.running():
            if reader is not writer:
                told = reader.mirror.get(writer.gossip.me, {})
                assert {key: change.value for key, change in told.items()} == writer.truth


@tried
@troubles
def test_no_resurrection_of_evicted_blocks(mesh: Mesh, operations: Operations) -> None:
    """Whoever knows an origin beyond an eviction does not show the block, now or ever again."""

    def check(reader: PeerId, sender: PeerId, message: GossipMessage) -> None:
        for origin, incarnation, _, version, gc_version in mesh.digest_of(reader, message):
            if version < gc_version:
                continue  # In the middle of starting over: it knows only part of what it says.
            latest = {change.key: change for change in mesh.lives[origin, incarnation].written}
            evicted = {c.key for c in latest.values() if c.value is None and c.version <= version}
            assert not evicted & mesh.nodes[reader].gossip.records(origin).keys()

    mesh.on_send = check
    endure(mesh, operations)
    for reader in mesh.running():
        for writer in mesh.running():
            assert reader.gossip.records(writer.gossip.me).keys() <= writer.truth.keys()


@tried
@troubles
def test_no_ghost_caches_after_restarts(mesh: Mesh, operations: Operations) -> None:
    """Whoever has heard of a node's next life shows nothing of the earlier one."""

    def check(reader: PeerId, message: GossipMessage) -> None:
        gossip = mesh.nodes[reader].gossip
        for entry in mesh.digest_of(reader, message):
            known = gossip.incarnation(entry.origin)
            assert known is not None
            if entry.origin == reader:
                continue
            assert known >= entry.incarnation
            life = mesh.lives[entry.origin, known]
            shown = mesh.nodes[reader].mirror.get(entry.origin, {})
            assert all(map(life.wrote, shown.values()))

    mesh.on_received = check
    endure(mesh, operations)
    for reader in mesh.running():
        for writer in mesh.running():
            me = writer.gossip.me
            assert reader.gossip.incarnation(me) == writer.gossip.incarnation(me)


@tried
@troubles
def test_single_writer(mesh: Mesh, operations: Operations) -> None:
    """A node's own records are what it wrote, and others hold nothing that it did not write."""

    def check() -> None:
        for reader in mesh.running():
            assert reader.gossip.records(reader.gossip.me) == reader.truth
            assert reader.gossip.me not in reader.mirror
            for origin, shown in reader.mirror.items():
                assert reader.gossip.records(origin) == {k: c.value for k, c in shown.items()}
                lives = [life for (peer, _), life in mesh.lives.items() if peer == origin]
                assert all(any(life.wrote(c) for life in lives) for c in shown.values())

    endure(mesh, operations, check)


@tried
@troubles
def test_bounded_messages(mesh: Mesh, operations: Operations) -> None:
    """No message is longer than its bound, and an exchange has three at most; four, if it begins
    with a compact digest that the other end cannot read."""
    sent: list[GossipMessage] = []

    def measure(_: PeerId, __: PeerId, message: GossipMessage) -> None:
        sent.append(message)
        size_max = 0
        if isinstance(message, (Syn, SynAck)):
            assert len(message.digest) <= len(mesh.ids)
            size_max += len(message.digest) * ENTRY_BYTES_MAX
        if isinstance(message, (CompactSyn, CompactSynAck)):
            size_max += len(mesh.ids) * ROW_BYTES_MAX + COMPACT_BYTES_MAX
        if isinstance(message, (SynAck, GossipAck, CompactSynAck)):
            if message.deltas:
                assert len(codec.encode(GossipAck(message.deltas))) <= DELTA_BYTES_MAX
            size_max += DELTA_BYTES_MAX
        assert len(codec.encode(message)) <= 8 + size_max

    def opened(_: PeerId) -> None:
        assert all(isinstance(each, (Syn, CompactSyn)) for each in sent)
        # One more: now and then somebody who is believed dead.
        assert len(sent) <= FANOUT + 1
        sent.clear()

    def answered(_: PeerId, message: GossipMessage) -> None:
        assert [type(each) for each in sent] in ([], *([kind] for kind in ANSWERS[type(message)]))
        sent.clear()

    mesh.on_send = measure
    mesh.on_ticked = opened
    mesh.on_received = answered
    endure(mesh, operations)
