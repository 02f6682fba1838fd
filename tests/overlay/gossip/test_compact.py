"""Compact digests say the same as whole ones, in few bytes, or say that they cannot."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import Malformed
from overlay.gossip.compact import CompactDigest
from overlay.gossip.effects import PeerState, Send
from overlay.gossip.gossip import Gossip
from overlay.gossip.records import CARD, LOAD
from overlay.wire import codec
from overlay.wire.anti_entropy import (
    CompactSyn,
    CompactSynAck,
    DigestEntry,
    GossipAck,
    OriginDelta,
    OwnContents,
    Syn,
    SynAck,
)
from tests.overlay.gossip.mesh import Mesh, peer_id

OWN = OwnContents(7, 3, 1, b"contents")
#: Three counters' high or low bits.
Bits = tuple[int, int, int]
Origin = tuple[int, int, Bits, Bits, Bits]

low = st.integers(0, (1 << 16) - 1)
lows = st.tuples(low, low, low)
#: Of each origin: its number and incarnation, its counters' high bits, and two ends' low ones.
origins = st.lists(
    st.tuples(
        st.integers(1, 1 << 200),
        st.integers(0, 1 << 48),
        st.tuples(*3 * [st.integers(0, (1 << 46) - 1)]),
        lows,
        lows,
    ),
    max_size=20,
    unique_by=lambda origin: origin[0],
)


def entry(number: int, incarnation: int, highs: Bits, lows: Bits) -> DigestEntry:
    counts = [(high << 16) + low for high, low in zip(highs, lows, strict=True)]
    return DigestEntry(peer_id(number), incarnation, *counts)


@given(origins, st.randoms())
def test_two_ends_read_each_other_exactly(both: list[Origin], rng: random.Random) -> None:
    mine = {n: entry(n, i, highs, my_lows) for n, i, highs, my_lows, _ in both}
    theirs = {n: entry(n, i, highs, their_lows) for n, i, highs, _, their_lows in both}
    order = [*both]
    rng.shuffle(order)
    here, there = CompactDigest(mine.values()), CompactDigest(theirs[each[0]] for each in order)
    other = {n for n in mine if mine[n] != theirs[n]}

    syn = codec.decode(codec.encode(there.syn()))
    assert isinstance(syn, CompactSyn)
    told = here.read(syn)
    assert told is not None
    assert sorted(told) == sorted(theirs[n] for n in other)

    delta = OriginDelta(peer_id(1), 1, 0, False, (), 0, 0)
    answer = codec.decode(codec.encode(here.answer(syn, (delta,), OWN)))
    assert isinstance(answer, CompactSynAck)
    whole = there.read_answer(answer)
    assert sorted(whole.digest) == sorted(mine[n] for n in other)
    assert whole.deltas == (delta,)


@given(origins.filter(bool), st.integers(0, 4), st.integers(0, 19))
def test_who_takes_others_for_alive_cannot_read_it(both: list[Origin], field: int, at: int) -> None:
    entries = [entry(n, i, highs, lows) for n, i, highs, lows, _ in both]
    at %= len(entries)
    changed: list[Any] = list(entries[at])
    changed[field] = peer_id(1 << 201) if field == 0 else changed[field] + (1 << 16)
    others = [*entries[:at], DigestEntry(*changed), *entries[at + 1 :]]
    for another in (others, entries[:at] + entries[at + 1 :]):
        assert CompactDigest(entries).read(CompactDigest(another).syn()) is None
        answer = CompactDigest(another).answer(CompactDigest(another).syn(), (), OWN)
        assert CompactDigest(entries).read_answer(answer) == SynAck((), (), OWN)


@given(origins, st.binary(max_size=60), st.binary(max_size=60), st.booleans())
def test_any_bytes_at_all_are_read_or_refused(
    both: list[Origin], heartbeats: bytes, contents: bytes, mine: bool
) -> None:
    digest = CompactDigest(entry(n, i, highs, lows) for n, i, highs, lows, _ in both)
    fingerprint = digest.fingerprint if mine else heartbeats[:8]
    with suppress(Malformed):
        digest.read(CompactSyn(fingerprint, heartbeats, contents))
    with suppress(Malformed):
        digest.read_answer(CompactSynAck(fingerprint, heartbeats, contents, ()))


ME, PEER = peer_id(1), peer_id(2)


def acquainted(*, compact: bool = True) -> Gossip:
    """A node that has a link with PEER, and has heard of it."""
    mine = Gossip(ME, 5, random.Random(0), 0.0)
    mine.prove(PEER)
    mine.alive(PEER, 0.0, compact=compact)
    mine.receive(PEER, Syn((DigestEntry(PEER, 5, 1, 0, 0),)), 0.0)
    mine.tick(0.0, [PEER])
    return mine


def opens(mine: Gossip, now: float) -> object:
    *_, send = mine.tick(now, [PEER])
    assert isinstance(send, Send)
    return send.message


def test_digests_are_whole_until_both_ends_have_had_time_to_agree() -> None:
    mine = acquainted()
    assert isinstance(opens(mine, 1.3), Syn)
    message = opens(mine, 4.0)
    assert isinstance(message, CompactSyn)
    # The peer takes others for alive.
    (answer,) = mine.receive(PEER, CompactSyn(bytes(8), b"", b""), 4.1)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, Syn)
    assert isinstance(opens(mine, 5.3), Syn)


def test_a_peer_of_version_1_is_told_whole_digests() -> None:
    mine = acquainted(compact=False)
    assert isinstance(opens(mine, 10.0), Syn)
    mine.link_lost(PEER, 10.0)
    mine.alive(PEER, 11.0)
    assert isinstance(opens(mine, 12.0), CompactSyn)


def test_an_answer_that_comes_too_late_to_be_read_still_brings_its_deltas() -> None:
    mine = acquainted()
    delta = OriginDelta(PEER, 5, 0, False, (), 3, 0)
    mine.receive(PEER, CompactSynAck(bytes(8), b"\x01", b"", (delta,)), 4.0)
    answer = mine.receive(PEER, Syn((DigestEntry(PEER, 5, 2, 3, 0),)), 4.0)[-1]
    assert isinstance(answer, Send)
    assert isinstance(answer.message, SynAck)
    assert answer.message.digest == (DigestEntry(ME, 5, 1, 0, 0),)
    assert answer.message.deltas == ()


@pytest.mark.parametrize(("count", "bytes_max"), [(10, 500), (50, 2000), (100, 4000)])
def test_an_idle_node_sends_little(count: int, bytes_max: int) -> None:
    """In bytes per second."""
    mesh = Mesh(count, seed=1)
    for peer in mesh.ids:
        mesh.set(peer, CARD, bytes(150))
    mesh.run(10)
    sent: list[int] = []
    mesh.on_send = lambda _, __, message: sent.append(len(codec.encode(message)))
    mesh.run(5)
    assert sum(sent) / count / 5 < bytes_max


def test_news_need_no_whole_digests() -> None:
    mesh = Mesh(20, seed=2)
    mesh.run(10)
    assert mesh.converged()
    kinds: set[type] = set()
    mesh.on_send = lambda _, __, message: kinds.add(type(message))
    for number, peer in enumerate(mesh.ids):
        mesh.set(peer, LOAD, b"load %d" % number)
    mesh.run(6)
    assert mesh.converged()
    assert kinds == {CompactSyn, CompactSynAck, GossipAck}


def test_what_is_known_of_the_dead_still_spreads() -> None:
    mesh = Mesh(4, seed=3)
    *others, victim = mesh.ids
    mesh.run(10)
    for peer in others[1:]:
        mesh.parts[peer] = 1
    mesh.set(victim, CARD, b"last words")
    mesh.run(3)
    mesh.kill(victim)
    mesh.run(15)
    mesh.parts = dict.fromkeys(mesh.ids, 0)
    mesh.run(100)
    for peer in others:
        gossip = mesh.nodes[peer].gossip
        assert gossip.states()[victim] is PeerState.DOWN
        assert gossip.records(victim) == {CARD: b"last words"}
