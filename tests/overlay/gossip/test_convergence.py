"""Meshes converge: many nodes, lossy networks, restarts, long absences, large summaries."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest

from overlay.gossip import gossip as gossip_module
from overlay.gossip import replica as replica_module
from overlay.gossip.effects import OriginReset, PeerState, Send
from overlay.gossip.records import CARD, LOAD, block_key
from overlay.wire.anti_entropy import Syn
from tests.overlay.gossip.mesh import Faults, Mesh


@pytest.mark.parametrize(("count", "seed"), [(10, 0), (10, 1), (10, 2), (100, 0)])
def test_news_are_everywhere_within_log2_n_plus_4_rounds(count: int, seed: int) -> None:
    mesh = Mesh(count, seed)
    one, another = mesh.rng.sample(mesh.ids, 2)
    news = [
        [(peer, LOAD) for peer in mesh.ids],
        [(one, LOAD)],
        [(another, block_key(block)) for block in range(200)],
        [(peer, LOAD) for peer in mesh.ids],
    ]
    for number, records in enumerate(news):
        mesh.run(mesh.rng.random())
        for peer, key in records:
            mesh.set(peer, key, b"news %d" % number)
        rounds = 0
        while not mesh.converged():
            mesh.run(1)
            rounds += 1
            assert rounds <= math.log2(count) + 4


def test_fifty_nodes_converge_at_30_percent_loss() -> None:
    mesh = Mesh(50, seed=1, faults=Faults(loss=0.3, delay_s_max=0.5))
    for number, peer in enumerate(mesh.ids):
        mesh.set(peer, CARD, b"card of %d" % number)
        for block in range(20):
            mesh.set(peer, block_key(number * 100 + block), b"")
    rounds = 0
    while not mesh.converged():
        mesh.run(1)
        rounds += 1
        assert rounds <= 12
    mesh.run(4)
    assert all(list(n.states.values()) == [PeerState.UP] * 49 for n in mesh.nodes.values())


def test_a_run_replays_exactly() -> None:
    stories = []
    for _ in range(2):
        mesh = Mesh(8, seed=7, faults=Faults(loss=0.3, doubling=0.1, delay_s_max=2.0))
        for peer in mesh.ids:
            mesh.set(peer, CARD, bytes(peer))
        mesh.run(10)
        stories.append([node.story for node in mesh.nodes.values()])
    assert stories[0] == stories[1]


def test_a_restart_shows_no_old_record() -> None:
    mesh = Mesh(3, seed=2)
    mesh.set(mesh.ids[0], block_key(1), b"")
    mesh.run(4)
    assert mesh.converged()
    mesh.start(mesh.ids[0])
    mesh.set(mesh.ids[0], block_key(2), b"")
    mesh.run(4)
    for reader in mesh.ids[1:]:
        assert set(mesh.nodes[reader].gossip.records(mesh.ids[0])) == {block_key(2)}
        assert any(e == OriginReset(mesh.ids[0]) for _, e in mesh.nodes[reader].story)


def test_a_node_away_longer_than_tombstones_starts_over() -> None:
    with patch.object(replica_module, "TOMBSTONE_GRACE_S", 5.0):
        mesh = Mesh(3, seed=3)
        origin, _, away = mesh.ids
        mesh.set(origin, b"gone", b"1")
        mesh.set(origin, b"kept", b"1")
        mesh.run(4)
        mesh.parts[away] = 1
        mesh.delete(origin, b"gone")
        mesh.run(10)
        assert b"gone" in mesh.nodes[away].gossip.records(origin)
        mesh.parts[away] = 0
        mesh.run(12)
        assert dict(mesh.nodes[away].gossip.records(origin)) == {b"kept": b"1"}
        assert any(e == OriginReset(origin) for _, e in mesh.nodes[away].story)


def test_a_newcomer_learns_what_changes_all_the_time() -> None:
    """Several messages to learn it all, and a collection of tombstones between any two of them."""
    with (
        patch.object(replica_module, "TOMBSTONE_GRACE_S", 12.0),
        patch.object(gossip_module, "DELTA_BYTES_MAX", 8 << 10),
    ):
        mesh = Mesh(5, seed=3)
        *members, newcomer = mesh.ids
        mesh.kill(newcomer)
        for peer in members:
            for block in range(1000):
                mesh.set(peer, block_key(block), b"")

        def live(rounds: int) -> None:
            for _ in range(rounds):
                for peer in members:
                    mesh.set(peer, LOAD, b"%f" % mesh.now)
                    mesh.set(peer, block_key(2000 + round(mesh.now)), b"")
                    mesh.delete(peer, block_key(2000 + round(mesh.now) - 5))
                mesh.run(1)

        live(30)
        mesh.start(newcomer)
        live(15)
        known = mesh.nodes[newcomer].gossip
        for peer in members:
            assert known.records(peer).keys() >= {LOAD, *map(block_key, range(1000))}
            assert known.age_s(peer, mesh.nodes[newcomer].clock(mesh.now)) < 2.0


def test_a_clock_set_back_across_a_restart_heals() -> None:
    mesh = Mesh(3, seed=4)
    mesh.start(mesh.ids[0])
    mesh.set(mesh.ids[0], CARD, b"before")
    mesh.run(4)
    mesh.start(mesh.ids[0], set_back_s=3600.0, home_lost=True)
    mesh.set(mesh.ids[0], CARD, b"after")
    mesh.run(8)
    assert mesh.converged()


def test_a_large_summary_does_not_hold_up_small_records() -> None:
    mesh = Mesh(3, seed=5)
    large, small, reader = mesh.ids
    mesh.parts[reader] = 1
    for block in range(6000):
        mesh.set(large, block_key(block), b"")
    mesh.set(small, CARD, b"small")
    mesh.run(8)
    (answer,) = mesh.nodes[small].gossip.receive(reader, Syn(()), mesh.now)
    assert isinstance(answer, Send)
    mesh.nodes[reader].gossip.receive(small, answer.message, mesh.now)
    held = mesh.nodes[reader].gossip
    assert held.records(small) == {CARD: b"small"}
    oldest = len(held.records(large))
    assert 1000 < oldest < 6000
    assert set(held.records(large)) == {block_key(block) for block in range(oldest)}
