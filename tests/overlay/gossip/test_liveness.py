"""Who is UP: killed peers are found within seconds, busy ones are left in peace."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.gossip.detector import PhiDetector
from overlay.gossip.effects import PeerDown, PeerState, PeerUp, Send
from overlay.gossip.hearsay import DISPUTE_ROUNDS
from overlay.gossip.liveness import (
    PHI_LINK_LOST,
    UNSUSPICIOUS,
    UNSUSPICIOUS_LINK_LOST,
    UNSUSPICIOUS_LINKED,
    Liveness,
)
from overlay.limits import FORGET_PEER_S, PHI_DOWN
from tests.overlay.gossip.mesh import Faults, Mesh, peer_id

PEER = peer_id(9)


def downs(mesh: Mesh) -> list[tuple[float, PeerDown]]:
    return [(t, e) for n in mesh.nodes.values() for t, e in n.story if isinstance(e, PeerDown)]


@pytest.mark.parametrize("count", [2, 3, 12])
def test_a_killed_peer_is_down_within_seconds_and_nobody_else(count: int) -> None:
    mesh = Mesh(count, seed=count)
    mesh.run(20)
    victim = mesh.ids[-1]
    mesh.kill(victim)
    killed_s = mesh.now
    mesh.run(12)
    found = downs(mesh)
    assert len(found) == count - 1
    assert all(e.peer == victim for _, e in found)
    # Its last heartbeats still make the rounds of a larger mesh for a round or two.
    assert max(t for t, _ in found) - killed_s <= 6.0 + (2.0 if count > 3 else 0.0)


def test_loss_and_delay_alone_make_nobody_down() -> None:
    mesh = Mesh(6, seed=1, faults=Faults(loss=0.3, delay_s_max=1.0))
    mesh.run(200)
    assert downs(mesh) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_a_busy_machine_is_not_dead(seed: int) -> None:
    """Signs of life a second apart, delayed by up to a second, sometimes three."""
    rng = random.Random(seed)
    liveness = Liveness(1.0)
    now = 0.0
    liveness.alive(PEER, now)
    for second in range(1, 120):
        now = max(now, second + rng.uniform(0, 1) + (2.0 if rng.random() < 0.05 else 0.0))
        assert liveness.judge(now) == []
        liveness.alive(PEER, now)


def test_a_lost_link_is_judged_sooner_but_a_heartbeat_excuses_it() -> None:
    liveness = Liveness(1.0)
    for second in range(10):
        liveness.alive(PEER, float(second))
    liveness.link_lost(PEER, 9.1)
    assert liveness.judge(10.5) == []
    assert [e.peer for e in liveness.judge(11.5)] == [PEER]
    assert liveness.state(PEER) is PeerState.DOWN

    assert liveness.heartbeat(PEER, 12.0) == []
    assert liveness.heartbeat(PEER, 13.0) == [PeerUp(PEER)]


def test_who_has_a_link_is_given_more_time() -> None:
    """Its link would end; and nodes begin new incarnations before, where heartbeats are forged."""
    assert UNSUSPICIOUS_LINKED >= 1.5 * DISPUTE_ROUNDS
    liveness = Liveness(1.0)
    for second in range(10):
        liveness.alive(PEER, float(second))
    assert liveness.judge(9.0 + UNSUSPICIOUS_LINKED - 0.1, {PEER}) == []
    assert [e.peer for e in liveness.judge(9.0 + UNSUSPICIOUS_LINKED, {PEER})] == [PEER]


def test_a_peer_that_goes_on_without_its_link_is_judged_as_any_other() -> None:
    liveness = Liveness(1.0)
    for second in range(10):
        liveness.alive(PEER, float(second))
    liveness.link_lost(PEER, 9.1)
    for second in range(10, 15):
        liveness.heartbeat(PEER, float(second))
    assert liveness.judge(16.5) == []


def test_an_echo_from_before_its_link_broke_excuses_nobody() -> None:
    liveness = Liveness(1.0)
    for second in range(10):
        liveness.alive(PEER, float(second))
    liveness.link_lost(PEER, 9.1)
    liveness.heartbeat(PEER, 10.0)
    assert [e.peer for e in liveness.judge(12.5)] == [PEER]


def test_one_late_heartbeat_does_not_raise_the_dead() -> None:
    liveness = Liveness(1.0)
    liveness.mentioned(PEER, 0.0)
    assert liveness.heartbeat(PEER, 1.0) == []
    assert liveness.state(PEER) is PeerState.DOWN


def test_goodbye_is_final_until_it_links_again_or_restarts() -> None:
    liveness = Liveness(1.0)
    liveness.alive(PEER, 0.0)
    assert liveness.left(PEER, 1.0) == [PeerDown(PEER, "it said goodbye")]
    for second in range(2, 6):
        assert liveness.heartbeat(PEER, float(second)) == []
    assert liveness.state(PEER) is PeerState.LEFT
    liveness.restarted(PEER, 6.0)
    liveness.heartbeat(PEER, 6.0)
    assert liveness.heartbeat(PEER, 7.0) == [PeerUp(PEER)]
    liveness.left(PEER, 8.0)
    assert liveness.alive(PEER, 9.0) == [PeerUp(PEER)]


def test_our_own_stall_blames_nobody() -> None:
    mesh = Mesh(3, seed=1)
    mesh.run(20)
    stalled = mesh.nodes[mesh.ids[0]].gossip
    effects = stalled.tick(mesh.now + 3600.0, mesh.ids[1:])
    assert not any(isinstance(e, PeerDown) for e in effects)
    assert set(stalled.states().values()) == {PeerState.UP}


def test_a_stall_of_ours_does_not_hide_who_dies_after_it() -> None:
    mesh = Mesh(2, seed=1)
    mesh.run(20)
    stalled, peer = (mesh.nodes[each].gossip for each in mesh.ids)
    [opened, *_] = peer.tick(mesh.now + 3600.0, [stalled.me])
    assert isinstance(opened, Send)
    # What came during the stall is read before the round that was due.
    stalled.receive(peer.me, opened.message, mesh.now + 3600.0)
    stalled.tick(mesh.now + 3600.0, [])
    effects = stalled.tick(mesh.now + 3600.0, [])
    for second in range(20):
        effects += stalled.tick(mesh.now + 3600.0 + second, [])
    assert PeerDown in map(type, effects)


def test_the_dead_are_forgotten_everywhere_and_for_good() -> None:
    mesh = Mesh(3, seed=1)
    early, late, victim = mesh.ids
    mesh.set(victim, b"card", b"1")
    mesh.parts[late] = 1
    mesh.run(10)
    mesh.kill(victim)
    mesh.run(20)
    assert mesh.nodes[early].gossip.states()[victim] is PeerState.DOWN

    # One learns of the dead only now, by hearsay, and so will forget it later.
    mesh.now += FORGET_PEER_S / 4
    mesh.parts[late] = 0
    mesh.run(10)
    assert mesh.nodes[late].gossip.states()[victim] is PeerState.DOWN

    # It must not tell the other anew.
    mesh.now += FORGET_PEER_S * 3 / 4
    mesh.run(10)
    assert victim not in mesh.nodes[early].gossip.states()
    assert victim in mesh.nodes[late].gossip.states()
    mesh.now += FORGET_PEER_S / 4
    mesh.run(10)
    for survivor in (early, late):
        assert victim not in mesh.nodes[survivor].gossip.states()
        assert not mesh.nodes[survivor].gossip.records(victim)


@given(st.floats(0, 30), st.floats(0, 30))
def test_phi_grows_with_silence(a: float, b: float) -> None:
    detector = PhiDetector(0.0)
    shorter, longer = sorted((a, b))
    assert detector.phi(shorter) <= detector.phi(longer)
    assert detector.phi(longer) <= detector.phi(longer, pause=False)


@given(st.lists(st.floats(0, 10), max_size=80))
def test_short_silences_are_unsuspicious_whatever_the_rhythm(intervals: list[float]) -> None:
    detector = PhiDetector(0.0)
    for interval in intervals:
        detector.heard(detector.heard_s + interval)
    heard_s = detector.heard_s
    assert detector.phi(heard_s + UNSUSPICIOUS) < PHI_DOWN
    assert detector.phi(heard_s + UNSUSPICIOUS_LINK_LOST, pause=False) < PHI_LINK_LOST


def test_phi_is_small_for_a_punctual_peer_and_large_for_a_silent_one() -> None:
    detector = PhiDetector(0.0)
    for second in range(1, 30):
        detector.heard(float(second))
        detector.heard(second + 0.05)
    assert detector.phi(30.0) < 0.5
    assert detector.phi(35.0) > PHI_DOWN
    assert detector.phi(1e9) > 1e6
