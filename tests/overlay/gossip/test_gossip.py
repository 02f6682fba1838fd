"""The rules of an exchange, with hostile and clumsy peers at the other end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.errors import LimitExceeded, LocalProtocolError, Malformed
from overlay.gossip.effects import (
    Disputed,
    GossipMessage,
    OriginReset,
    PeerState,
    PeerUp,
    RecordsChanged,
    Send,
)
from overlay.gossip.fitting import fit
from overlay.gossip.gossip import Gossip
from overlay.gossip.opening import FANOUT
from overlay.gossip.records import block_key
from overlay.gossip.replica import COLLECTED_LATE, Lack, OwnRecords, Replica
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    DELTA_BYTES_MAX,
    MEMBERS_MAX,
    MESSAGE_BYTES_MAX,
    RECORD_VALUE_BYTES_MAX,
    TOMBSTONE_GRACE_S,
    TOMBSTONES_MAX,
)
from overlay.wire import codec
from overlay.wire.anti_entropy import Change, DigestEntry, GossipAck, OriginDelta, Syn, SynAck
from tests.overlay.gossip.mesh import deliver_quietly, peer_id

ME, PEER, THIRD = peer_id(1), peer_id(2), peer_id(3)


def gossip(incarnation: int = 5) -> Gossip:
    return Gossip(ME, incarnation, random.Random(0), 0.0)


def delta(
    *changes: Change,
    origin: PeerId = THIRD,
    incarnation: int = 1,
    after: int = 0,
    version: int | None = None,
    reset: bool = False,
    gc: int = 0,
) -> OriginDelta:
    if version is None:
        version = changes[-1].version if changes else after
    return OriginDelta(origin, incarnation, after, reset, changes, version, gc)


def test_setting_what_is_set_sends_nothing() -> None:
    mine = gossip()
    mine.set(b"k", b"v", 0.0)
    before = mine.tick(0.0, [PEER])
    mine.set(b"k", b"v", 0.0)
    mine.delete(b"unknown", 0.0)
    after = mine.tick(5.0, [PEER])
    versions = [e.message.digest[0].version for e in (*before, *after)]  # type: ignore[union-attr]
    assert versions == [1, 1]


def test_a_round_opens_few_exchanges_and_only_with_linked_peers() -> None:
    mine = gossip()
    linked = [peer_id(n) for n in range(2, 12)]
    effects = mine.tick(0.0, linked)
    assert len(effects) == FANOUT
    assert {e.peer for e in effects if isinstance(e, Send)} <= set(linked)
    assert mine.tick(0.1, linked) == []
    assert 0.8 <= mine.next_deadline() <= 1.2


def test_nobody_else_writes_my_records() -> None:
    mine = gossip()
    mine.set(b"k", b"v", 0.0)
    forged = delta(Change(b"k", 1, b"evil"), origin=ME, incarnation=5)
    assert mine.receive(PEER, GossipAck((forged,)), 0.0) == []
    assert dict(mine.records(ME)) == {b"k": b"v"}


@pytest.mark.parametrize(
    "entry",
    [
        DigestEntry(ME, 6, 0, 0, 0),
        DigestEntry(ME, 5, 0, 9, 0),
        DigestEntry(ME, 5, 9, 0, 0),
        DigestEntry(ME, 5, 0, 0, 9),
    ],
)
def test_who_claims_to_know_more_of_me_is_outdone(entry: DigestEntry) -> None:
    mine = gossip()
    mine.set(b"k", b"v", 0.0)
    disputed, answer = mine.receive(PEER, Syn((entry,)), 0.0)
    assert disputed == Disputed(PEER, entry.incarnation + 1)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, SynAck)
    (offered,) = answer.message.deltas
    assert (offered.incarnation, offered.reset) == (entry.incarnation + 1, True)
    assert offered.changes == (Change(b"k", 1, b"v"),)


def test_a_gap_is_not_taken() -> None:
    mine = gossip()
    late = delta(Change(b"k", 5, b"v"), after=4)
    assert mine.receive(PEER, GossipAck((late,)), 0.0) == []
    assert not mine.records(THIRD)


def test_doubled_and_overlapping_deltas_change_nothing_twice() -> None:
    mine = gossip()
    first = delta(Change(b"a", 1, b"1"), Change(b"b", 2, b"1"))
    overlap = delta(Change(b"b", 2, b"1"), Change(b"a", 3, None), after=1)
    assert mine.receive(PEER, GossipAck((first,)), 0.0) == [RecordsChanged(THIRD, first.changes)]
    assert mine.receive(PEER, GossipAck((first,)), 0.0) == []
    effects = mine.receive(PEER, GossipAck((overlap,)), 0.0)
    assert effects == [RecordsChanged(THIRD, (Change(b"a", 3, None),))]
    assert dict(mine.records(THIRD)) == {b"b": b"1"}


def test_a_higher_incarnation_voids_the_lower_one_at_its_first_mention() -> None:
    mine = gossip()
    mine.receive(PEER, GossipAck((delta(Change(b"a", 1, b"1")),)), 0.0)
    effects = mine.receive(PEER, Syn((DigestEntry(THIRD, 2, 1, 4, 0),)), 1.0)
    assert effects[0] == OriginReset(THIRD)
    assert not mine.records(THIRD)
    assert mine.receive(PEER, GossipAck((delta(Change(b"a", 1, b"1")),)), 2.0) == []
    assert not mine.records(THIRD)


def test_who_left_is_back_with_its_next_incarnation() -> None:
    mine = gossip()
    mine.alive(THIRD, 0.0)
    mine.receive(PEER, Syn((DigestEntry(THIRD, 1, 1, 0, 0),)), 0.0)
    assert mine.said_goodbye(THIRD, 1.0)
    assert mine.states()[THIRD] is PeerState.LEFT
    heard = [
        effect
        for incarnation, heartbeat in ((1, 5), (1, 6), (2, 1), (2, 2))
        for effect in mine.receive(
            PEER, Syn((DigestEntry(THIRD, incarnation, heartbeat, 0, 0),)), 2.0
        )
        if isinstance(effect, PeerUp)
    ]
    assert heard == [PeerUp(THIRD)]


def test_a_heartbeat_is_a_sign_of_life_once_though_there_are_records_to_catch_up_with() -> None:
    mine = gossip()
    mine.receive(PEER, GossipAck((delta(Change(b"a", 1, b"1")),)), 0.0)
    for now in range(1, 9):
        effects = mine.receive(PEER, Syn((DigestEntry(THIRD, 1, 5, 4, 0),)), float(now))
        assert PeerUp(THIRD) not in effects
    assert mine.states()[THIRD] is PeerState.DOWN
    assert PeerUp(THIRD) in mine.receive(PEER, Syn((DigestEntry(THIRD, 1, 6, 4, 0),)), 9.0)


def test_records_age_from_when_they_were_last_known_to_be_current() -> None:
    mine = gossip()
    assert mine.age_s(THIRD, 0.0) == float("inf")
    mine.receive(PEER, GossipAck((delta(Change(b"a", 1, b"1")),)), 10.0)
    assert mine.age_s(THIRD, 12.0) == 2.0
    mine.receive(PEER, Syn((DigestEntry(THIRD, 1, 7, 1, 0),)), 13.0)
    assert mine.age_s(THIRD, 13.0) == 0.0
    # Somebody knows more than we do: our records are not current any more.
    mine.receive(PEER, Syn((DigestEntry(THIRD, 1, 8, 4, 0),)), 20.0)
    assert mine.age_s(THIRD, 20.0) == 7.0


@pytest.mark.parametrize(
    "bad",
    [
        Syn((DigestEntry(THIRD, 1 << 50, 0, 0, 0),)),
        Syn((DigestEntry(THIRD, 1, 1, 1, 0), DigestEntry(THIRD, 2, 1, 1, 0))),
        SynAck((DigestEntry(THIRD, 1, 1, 1, 0), DigestEntry(THIRD, 1, 1, 1, 0)), ()),
        GossipAck((delta(Change(b"k", 2, b""), Change(b"l", 1, b""), version=2),)),
        GossipAck((delta(Change(b"k", 1, b""), Change(b"k", 2, b"")),)),
        GossipAck((delta(Change(b"k", 3, b""), version=2),)),
        GossipAck((delta(Change(b"k", 3, b""), after=2, reset=True),)),
        GossipAck((delta(after=3, version=2),)),
        GossipAck((delta(Change(b"", 1, b"")),)),
        GossipAck((delta(Change(b"k" * 33, 1, b"")),)),
        GossipAck((delta(Change(b"k", 1, bytes(RECORD_VALUE_BYTES_MAX + 1))),)),
    ],
)
def test_impossible_messages_are_refused_whole(bad: Syn | SynAck | GossipAck) -> None:
    mine = gossip()
    with pytest.raises(Malformed):
        mine.receive(PEER, bad, 0.0)
    assert mine.states() == {}


def test_members_are_bounded() -> None:
    mine = gossip()
    digest = tuple(DigestEntry(peer_id(n), 1, 1, 0, 0) for n in range(2, MEMBERS_MAX + 2))
    mine.receive(PEER, Syn(digest), 0.0)
    assert len(mine.states()) == MEMBERS_MAX - 1
    with pytest.raises(LimitExceeded):
        mine.receive(PEER, Syn((*digest, digest[0])), 0.0)


def test_own_records_are_bounded() -> None:
    mine = gossip()
    with pytest.raises(LocalProtocolError):
        mine.set(b"k", bytes(RECORD_VALUE_BYTES_MAX + 1), 0.0)
    with pytest.raises(LocalProtocolError):
        Gossip(ME, 1_700_000_000_000_000_000, random.Random(0), 0.0)


def test_tombstones_are_collected_by_age_and_by_number() -> None:
    own = OwnRecords(ME, 1)
    for n in range(3):
        own.write(b"k%d" % n, b"", 0.0)
        own.write(b"k%d" % n, None, n * TOMBSTONE_GRACE_S / 2)
    own.write(b"k0", b"back", TOMBSTONE_GRACE_S)
    late_s = COLLECTED_LATE * TOMBSTONE_GRACE_S
    own.collect(late_s)
    assert own.known.gc_version == 0
    own.collect(late_s + 1.0)
    assert own.known.gc_version == 4
    assert dict(own.records()) == {b"k0": b"back"}

    for n in range(TOMBSTONES_MAX + 10):
        own.write(block_key(n), b"", 3000.0)
        own.write(block_key(n), None, 3000.0)
    own.collect(3000.0)
    lack = own.lack_of(None)
    assert lack is not None
    assert sum(c.value is None for c in lack.changes) == TOMBSTONES_MAX // 2


numbers = st.integers(0, 6)
changes = st.lists(
    st.builds(Change, st.sampled_from([b"a", b"b"]), numbers, st.none() | st.just(b"v")), max_size=3
).map(tuple)
origins = st.sampled_from([ME, PEER, THIRD])
entries = st.lists(
    st.builds(DigestEntry, origins, numbers, numbers, numbers, numbers), max_size=3
).map(tuple)
deltas = st.lists(
    st.builds(OriginDelta, origins, numbers, numbers, st.booleans(), changes, numbers, numbers),
    max_size=3,
).map(tuple)
messages = st.one_of(
    st.builds(Syn, entries), st.builds(SynAck, entries, deltas), st.builds(GossipAck, deltas)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(messages, max_size=12))
def test_any_messages_at_all_leave_own_records_and_invariants_alone(
    stream: list[GossipMessage],
) -> None:
    mine = gossip(incarnation=3)
    mine.set(b"mine", b"v", 0.0)
    # Else others would be told nothing of it.
    mine.prove(THIRD)
    for second, message in enumerate(stream):
        for effect in deliver_quietly(mine, PEER, message, float(second)):
            assert getattr(effect, "origin", None) != ME
            if isinstance(effect, Send):
                # What we send passes the checks of an honest receiver.
                other = Gossip(effect.peer, 3, random.Random(0), 0.0)
                other.receive(ME, effect.message, 0.0)
    assert dict(mine.records(ME)) == {b"mine": b"v"}


def test_messages_fit_the_wire() -> None:
    """The estimate is an upper bound, and the fullest answer fits into a frame."""
    replicas = []
    for n in range(MEMBERS_MAX):
        replica = OwnRecords(peer_id((1 << 255) + n), (1 << 44) - 1)
        replica.known = replica.known._replace(version=(1 << 62) - 100)
        replica.write(b"card", bytes(300), 0.0)
        for block in range(5):
            replica.write(block_key(block), b"", 0.0)
        replica.write(block_key(0), None, 0.0)
        replicas.append(replica)

    def fitting(bytes_max: int) -> tuple[OriginDelta, ...]:
        lacks = [lack for r in replicas if (lack := r.lack_of(None))]
        return fit(lacks, bytes_max, random.Random(0))

    fitted = fitting(DELTA_BYTES_MAX)
    assert len(codec.encode(GossipAck(fitted))) <= DELTA_BYTES_MAX
    assert len(fitting(1 << 30)) == MEMBERS_MAX
    estimate = max(b for b in range(0, 1 << 20, 1 << 14) if len(fitting(b)) < MEMBERS_MAX)
    assert estimate >= len(codec.encode(GossipAck(fitting(estimate))))
    full = SynAck(tuple(r.known for r in replicas), fitted)
    assert len(codec.encode(full)) < MESSAGE_BYTES_MAX


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 3000))
def test_fitting_is_bounded_ordered_and_makes_progress(counts: list[int], spare: int) -> None:
    lacks = []
    for n, count in enumerate(counts):
        own = OwnRecords(peer_id(n + 1), 1)
        for key in range(count):
            own.write(b"k%d" % key, bytes(20), 0.0)
        lack = own.lack_of(None)
        assert lack is not None
        lacks.append(lack)
    bytes_max = 140 + spare
    fitted = fit(lacks, bytes_max, random.Random(0))
    assert fitted
    assert len(codec.encode(GossipAck(fitted))) <= bytes_max
    for each in fitted:
        receiver = Replica(each.origin, 1)
        assert receiver.apply(each).changes == each.changes
        assert receiver.known.version == each.version


def lacking(number: int, records: int) -> Lack:
    """So many records of an origin, each of the size of a load."""
    own = OwnRecords(peer_id(number), 1)
    for key in range(records):
        own.write(b"k%03d" % key, bytes(10), 0.0)
    lack = own.lack_of(None)
    assert lack is not None
    return lack


def test_who_has_little_to_say_goes_first_even_if_many_have_much() -> None:
    lacks = [lacking(n, 200 if n % 2 else 1) for n in range(1, 201)]
    told = {delta.origin: len(delta.changes) for delta in fit(lacks, 1 << 14, random.Random(0))}
    assert [told.get(peer_id(n)) for n in range(2, 201, 2)] == [1] * 100
    assert sum(told.values()) > 150


def test_a_crowd_with_a_little_to_say_of_each_leaves_others_their_share() -> None:
    """It can do so all the time, and then nobody else's summary would ever come through."""
    friends = [lacking(number, 150) for number in (1, 2)]
    crowd = [lacking(number, 20) for number in range(10, 350)]
    heads = {lack.known.origin: peer_id(number) for number, lack in enumerate(friends, start=1)}
    heads |= {lack.known.origin: peer_id(9) for lack in crowd}
    bytes_max = 1 << 14
    fitted = fit([*crowd, *friends], bytes_max, random.Random(0), heads.get)
    told = {delta.origin: len(delta.changes) for delta in fitted}
    assert [told[lack.known.origin] for lack in friends] == [150, 150]
    assert sum(lack.known.origin in told for lack in crowd) > 5


@pytest.mark.parametrize("branches", [1, 2])
def test_where_all_has_room_nothing_is_cut_to_a_share(branches: int) -> None:
    lacks = [lacking(1, 150), *(lacking(number, 1) for number in range(2, 20))]
    heads = {lack.known.origin: peer_id(n % branches) for n, lack in enumerate(lacks)}
    fitted = fit(lacks, 1 << 14, random.Random(0), heads.get)
    assert sum(len(delta.changes) for delta in fitted) == 150 + 18


def test_nobody_is_left_out_message_after_message() -> None:
    dice = random.Random(0)
    messages = [fit([lacking(n, 1) for n in range(1, 101)], 3000, dice) for _ in range(50)]
    told = [{delta.origin for delta in deltas} for deltas in messages]
    assert max(map(len, told)) < 30
    assert len(set[PeerId]().union(*told)) == 100


def test_an_answer_tells_nothing_that_the_opener_told() -> None:
    mine = gossip()
    for member in (PEER, THIRD):
        mine.prove(member)
    mine.set(b"k", b"v", 0.0)
    mine.receive(PEER, GossipAck((delta(Change(b"a", 1, b"1")),)), 0.0)
    mine.receive(PEER, Syn((DigestEntry(PEER, 1, 7, 0, 0),)), 0.0)
    (known,) = [e for e in mine.receive(PEER, Syn(()), 0.0) if isinstance(e, Send)]
    assert isinstance(known.message, SynAck)
    digest = known.message.digest
    assert {entry.origin for entry in digest} == {ME, PEER, THIRD}

    (answer,) = mine.receive(PEER, Syn(digest), 0.0)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, SynAck)
    assert (answer.message.digest, answer.message.deltas) == ((), ())
    # A heartbeat that is news here is none for the opener either; an older one is.
    newer, older = peer_id(8), peer_id(9)
    mine.receive(PEER, Syn((DigestEntry(newer, 1, 3, 0, 0), DigestEntry(older, 1, 3, 0, 0))), 0.0)
    syn = Syn((*digest, DigestEntry(newer, 1, 4, 0, 0), DigestEntry(older, 1, 2, 0, 0)))
    (answer,) = [e for e in mine.receive(PEER, syn, 0.0) if isinstance(e, Send)]
    assert isinstance(answer.message, SynAck)
    assert (answer.message.digest, answer.message.deltas) == ((DigestEntry(older, 1, 3, 0, 0),), ())


def test_what_an_answer_leaves_out_is_not_sent_again() -> None:
    mine = gossip()
    mine.set(b"k", b"v", 0.0)
    mine.receive(PEER, GossipAck((delta(Change(b"a", 1, b"1")),)), 0.0)
    assert mine.receive(PEER, SynAck((), ()), 0.0) == []
