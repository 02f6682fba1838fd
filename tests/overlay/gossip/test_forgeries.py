"""What a liar may do to the picture that others have of each other, and what not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import Malformed
from overlay.gossip import replicas
from overlay.gossip.compact import CompactDigest
from overlay.gossip.effects import (
    Disbelieved,
    Disputed,
    Effect,
    GossipMessage,
    OriginReset,
    PeerDown,
    PeerState,
    RecordsChanged,
    Send,
)
from overlay.gossip.gossip import Gossip
from overlay.gossip.hearsay import DISPUTE_ROUNDS
from overlay.gossip.own_words import OwnWords
from overlay.gossip.replica import INCARNATION_MAX
from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX, ORIGIN_BYTES_MAX, RECORD_VALUE_BYTES_MAX, UNPROVEN_S
from overlay.wire import codec
from overlay.wire.anti_entropy import (
    Change,
    CompactSynAck,
    DigestEntry,
    GossipAck,
    OriginDelta,
    OwnContents,
    Syn,
    SynAck,
)
from tests.overlay.gossip.mesh import peer_id

ME, LIAR, THIRD, OTHER = (peer_id(number) for number in range(1, 5))


def linked(*peers: PeerId) -> Gossip:
    mine = Gossip(ME, 5, random.Random(0), 0.0)
    for peer in peers:
        mine.alive(peer, 0.0)
    return mine


def tells(origin: PeerId, incarnation: int, *changes: Change) -> GossipAck:
    version = changes[-1].version
    after = changes[0].version - 1
    return GossipAck((OriginDelta(origin, incarnation, after, False, changes, version, 0),))


def says_of_itself(peer: PeerId, incarnation: int) -> Syn:
    return Syn((DigestEntry(peer, incarnation, 1, 0, 0),))


def test_own_words_count_from_the_link_to_its_end() -> None:
    words = OwnWords()
    digest = says_of_itself(THIRD, 7).digest
    assert words.hear(THIRD, digest) is None, "there is no link"
    words.linked(THIRD)
    assert not words.contradict(LIAR, THIRD, 9), "it has said nothing yet"
    assert words.hear(LIAR, digest) is None
    assert words.hear(THIRD, ()) is None
    assert words.hear(THIRD, digest) == 7
    assert words.contradict(LIAR, THIRD, 8)
    assert not words.contradict(LIAR, THIRD, 7)
    assert not words.contradict(THIRD, THIRD, 8)
    words.unlinked(THIRD)
    assert not words.contradict(LIAR, THIRD, 8)


@pytest.mark.parametrize(
    "forged",
    [tells(THIRD, 8, Change(b"card", 1, b"forged")), Syn((DigestEntry(THIRD, 8, 9, 9, 0),))],
    ids=["delta", "digest"],
)
def test_who_has_a_link_speaks_for_itself(forged: GossipAck | Syn) -> None:
    mine = linked(LIAR, THIRD)
    mine.receive(THIRD, says_of_itself(THIRD, 7), 0.0)
    mine.receive(THIRD, tells(THIRD, 7, Change(b"card", 1, b"true")), 0.0)
    [told] = [e for e in mine.receive(LIAR, forged, 0.0) if isinstance(e, Disbelieved)]
    assert (told.by, told.origin) == (LIAR, THIRD)
    assert mine.records(THIRD) == {b"card": b"true"}


@pytest.mark.parametrize(
    "forged",
    [
        Syn((DigestEntry(THIRD, 7, 1, 99, 0),)),
        GossipAck((OriginDelta(THIRD, 7, 98, False, (Change(b"card", 99, b""),), 99, 0),)),
    ],
    ids=["digest", "delta"],
)
def test_who_has_a_link_is_as_current_as_it_says_itself(forged: Syn | GossipAck) -> None:
    """Nobody can send the news that are claimed to be lacking."""
    mine = linked(LIAR, THIRD)
    mine.receive(THIRD, says_of_itself(THIRD, 7), 0.0)
    mine.receive(THIRD, tells(THIRD, 7, Change(b"card", 1, b"true")), 0.0)
    mine.receive(LIAR, forged, 1.0)
    mine.receive(THIRD, Syn((DigestEntry(THIRD, 7, 2, 1, 0),)), 2.0)
    assert mine.age_s(THIRD, 2.0) == 0.0


def test_no_forged_heartbeat_makes_one_with_a_link_seem_dead_or_its_records_old() -> None:
    """No true heartbeat is news after it, until that node has begun a new incarnation."""
    mine = linked(LIAR, THIRD)
    mine.receive(THIRD, says_of_itself(THIRD, 7), 0.0)
    mine.receive(THIRD, tells(THIRD, 7, Change(b"card", 1, b"true")), 0.0)
    mine.receive(LIAR, Syn((DigestEntry(THIRD, 7, 1 << 60, 1, 0),)), 0.0)
    for now in range(1, 2 * DISPUTE_ROUNDS):
        mine.receive(THIRD, Syn((DigestEntry(THIRD, 7, 1 + now, 1, 0),)), float(now))
        mine.tick(float(now), [LIAR, THIRD])
        assert mine.states()[THIRD] is PeerState.UP
        assert mine.age_s(THIRD, float(now)) == 0.0
    mine.link_lost(THIRD, 20.0)
    assert PeerDown in map(type, mine.tick(21.5, [LIAR]))


def test_a_compact_digest_is_its_senders_own_word_too() -> None:
    mine = linked(LIAR, THIRD)
    for member in (LIAR, THIRD):
        mine.prove(member)
    mine.receive(LIAR, Syn((DigestEntry(THIRD, 7, 1, 0, 0),)), 0.0)
    mine.receive(LIAR, Syn((DigestEntry(LIAR, 7, 1, 0, 0),)), 0.0)
    # News of the liar, too, who comes before it in the order of PeerIds.
    others = [DigestEntry(ME, 5, 0, 0, 0), DigestEntry(LIAR, 7, 2, 0, 0)]
    spoken = CompactDigest([*others, DigestEntry(THIRD, 7, 2, 0, 0)]).syn()
    assert any(
        isinstance(effect, Send) and isinstance(effect.message, CompactSynAck)
        for effect in mine.receive(THIRD, spoken, 0.0)
    )
    forged = Syn((DigestEntry(THIRD, 8, 9, 9, 0),))
    assert any(isinstance(effect, Disbelieved) for effect in mine.receive(LIAR, forged, 0.0))


def test_what_was_forged_before_the_link_is_void_with_the_first_word() -> None:
    mine = linked(LIAR)
    mine.receive(LIAR, tells(THIRD, INCARNATION_MAX, Change(b"card", 1, b"forged")), 0.0)
    mine.alive(THIRD, 0.0)
    effects = mine.receive(THIRD, says_of_itself(THIRD, 7), 0.0)
    assert OriginReset(THIRD) in effects
    assert mine.incarnation(THIRD) == 7
    told = mine.receive(THIRD, tells(THIRD, 7, Change(b"card", 1, b"true")), 0.0)
    assert RecordsChanged(THIRD, (Change(b"card", 1, b"true"),)) in told


def converse(opener: Gossip, other: Gossip, now: float = 9.0) -> list[Effect]:
    """One exchange, and all that follows; what it taught both."""
    learnt: list[Effect] = []
    spoken: list[tuple[Gossip, Effect]] = [(opener, e) for e in opener.tick(now, [other.me])]
    while spoken:
        speaker, effect = spoken.pop(0)
        if not isinstance(effect, Send):
            learnt.append(effect)
            continue
        hearer = other if speaker is opener else opener
        message = codec.decode(codec.encode(effect.message))
        assert isinstance(message, GossipMessage)
        spoken += [(hearer, e) for e in hearer.receive(speaker.me, message, now)]
    return learnt


def test_a_forgery_of_the_next_change_ends_with_its_origins_next_answer() -> None:
    """Both have a change of that number: only their contents tell that they are not the same."""
    mine, third = linked(LIAR, THIRD), Gossip(THIRD, 7, random.Random(0), 0.0)
    for gossip in (mine, third):
        gossip.alive(ME if gossip is third else THIRD, 0.0)
        gossip.prove(THIRD)
    third.set(b"card", b"true", 0.0)
    third.set(b"load", b"true", 0.0)
    mine.receive(LIAR, tells(THIRD, 7, Change(b"card", 1, b"forged")), 0.0)

    learnt = converse(mine, third)
    assert OriginReset(THIRD) in learnt
    assert [e.by for e in learnt if isinstance(e, Disbelieved)] == [LIAR]
    assert mine.records(THIRD) == {b"card": b"true", b"load": b"true"}
    assert mine.age_s(THIRD, 9.0) == 0.0


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.none() | st.binary(max_size=2))))
def test_whoever_holds_the_same_records_finds_the_same_contents(
    changes: list[tuple[bytes, bytes | None]],
) -> None:
    """Whatever was overwritten, and in however many parts it came."""
    third, mine = Gossip(THIRD, 7, random.Random(0), 0.0), linked(THIRD)
    third.prove(THIRD)
    for key, value in changes:
        third.set(key, value, 0.0) if value is not None else third.delete(key, 0.0)
        asked = mine.receive(THIRD, Syn((third._own.known,)), 0.0)[-1]
        assert isinstance(asked, Send)
        answer = third.receive(ME, asked.message, 0.0)
        for effect in answer:
            assert isinstance(effect, Send)
            mine.receive(THIRD, effect.message, 0.0)
        late = third._own.contents()
        effects = mine.receive(THIRD, SynAck((), (), late), 0.0)
        assert OriginReset(THIRD) not in effects
        assert mine.records(THIRD) == third.records(THIRD)
        other = late._replace(digest=bytes(8))
        assert OriginReset(THIRD) in mine.receive(THIRD, SynAck((), (), other), 0.0)


def test_who_told_long_ago_what_it_wrote_is_not_taken_at_that_word() -> None:
    """An answer may be overtaken by what others tell."""
    mine = linked(LIAR, THIRD)
    mine.receive(THIRD, tells(THIRD, 7, Change(b"card", 1, b"true")), 0.0)
    late = OwnContents(7, 1, 0, bytes(8))
    mine.receive(LIAR, tells(THIRD, 7, Change(b"load", 2, b"true")), 0.0)
    assert mine.receive(THIRD, SynAck((), (), late), 0.0) == []


def disputes(mine: Gossip, incarnation: int, now: float) -> bool:
    """The liar tells of such an incarnation of this node: whether it objects."""
    effects = mine.receive(LIAR, Syn((DigestEntry(ME, incarnation, 9, 9, 0),)), now)
    return any(isinstance(effect, Disputed) for effect in effects)


def test_a_liar_does_not_make_others_forget_this_node_all_the_time() -> None:
    mine = linked(LIAR)
    assert disputes(mine, 7, 0.0)
    assert mine.incarnation(ME) == 8
    for now in (0.0, 1.0, DISPUTE_ROUNDS - 0.1):
        assert disputes(mine, 20, now)
        assert mine.incarnation(ME) == 8
    assert disputes(mine, 20, DISPUTE_ROUNDS)
    assert mine.incarnation(ME) == 21


def test_disputes_lead_to_no_incarnation_that_others_would_not_believe() -> None:
    mine = linked(LIAR)
    for incarnation in (INCARNATION_MAX - 1, INCARNATION_MAX, INCARNATION_MAX):
        assert disputes(mine, incarnation, 0.0)
        assert mine.incarnation(ME) == INCARNATION_MAX
    [*_, send] = mine.tick(1.0, [LIAR])
    assert isinstance(send, Send)
    told = codec.decode(codec.encode(send.message))
    assert isinstance(told, GossipMessage)
    linked(THIRD).receive(THIRD, told, 0.0)
    with pytest.raises(Malformed):
        mine.receive(LIAR, Syn((DigestEntry(ME, INCARNATION_MAX + 1, 9, 9, 0),)), 0.0)


@pytest.mark.parametrize(("version", "collected"), [(99, 0), (99, 99), (1, 99)])
def test_forgeries_of_the_last_incarnation_are_void_with_its_origins_next_word(
    version: int, collected: int
) -> None:
    """It cannot begin another one above them."""
    mine, third = linked(LIAR, THIRD), Gossip(THIRD, 7, random.Random(0), 0.0)
    third.alive(ME, 0.0)
    mine.prove(THIRD)
    third.set(b"card", b"true", 0.0)
    third.receive(LIAR, Syn((DigestEntry(THIRD, INCARNATION_MAX - 1, 9, 9, 0),)), 0.0)
    assert third.incarnation(THIRD) == INCARNATION_MAX
    converse(third, mine)
    assert mine.records(THIRD) == {b"card": b"true"}
    forged = Change(b"card", version + 1, b"forged")
    delta = OriginDelta(THIRD, INCARNATION_MAX, 0, True, (forged,), version + 1, collected)
    mine.receive(LIAR, GossipAck((delta,)), 9.0)
    assert mine.records(THIRD) == {b"card": b"forged"}
    third.set(b"load", b"true", 19.0)
    converse(third, mine, 19.0)
    assert mine.records(THIRD) == {b"card": b"true", b"load": b"true"}


def crowd(mine: Gossip, *, proven: bool) -> list[PeerId]:
    """The liar tells of as many origins as there is room for."""
    origins = [peer_id(100 + number) for number in range(MEMBERS_MAX - 1)]
    for origin in origins:
        if proven:
            mine.prove(origin)
        mine.receive(LIAR, Syn((DigestEntry(origin, 1, 1, 1, 0),)), 0.0)
    return origins


def test_who_may_be_made_up_makes_room_for_anybody_the_oldest_first() -> None:
    mine = linked(LIAR)
    oldest, second, *_ = crowd(mine, proven=False)
    effects = mine.receive(LIAR, tells(THIRD, 7, Change(b"card", 1, b"true")), 0.0)
    assert effects[:1] == [OriginReset(oldest)]
    assert mine.records(THIRD) == {b"card": b"true"}
    assert mine.incarnation(oldest) is None
    assert mine.incarnation(second) == 1


def test_members_make_room_only_for_one_with_a_link() -> None:
    mine = linked(LIAR)
    first, second, *_ = crowd(mine, proven=True)
    mine.receive(LIAR, tells(THIRD, 7, Change(b"card", 1, b"true")), 0.0)
    assert mine.incarnation(THIRD) is None
    mine.alive(THIRD, 0.0)
    effects = mine.receive(THIRD, tells(THIRD, 7, Change(b"card", 1, b"true")), 0.0)
    assert effects[:1] == [OriginReset(first)]
    assert mine.records(THIRD) == {b"card": b"true"}
    assert mine.incarnation(second) == 1


@pytest.mark.parametrize("proven", [False, True])
def test_who_has_a_link_makes_room_for_nobody(proven: bool) -> None:
    mine = linked(LIAR)
    first, second, *_ = crowd(mine, proven=proven)
    mine.alive(first, 0.0)
    mine.alive(THIRD, 0.0)
    effects = mine.receive(THIRD, tells(THIRD, 7, Change(b"card", 1, b"true")), 0.0)
    assert effects[:1] == [OriginReset(second)]
    assert mine.incarnation(first) == 1


def told(mine: Gossip, now: float) -> tuple[set[PeerId], set[PeerId]]:
    """Of whom it tells in digests, and in deltas, to one that has a link and knows nothing."""
    opened = [each for each in mine.tick(now, [OTHER]) if isinstance(each, Send)]
    answered = [each for each in mine.receive(OTHER, Syn(()), now) if isinstance(each, Send)]
    digests: set[PeerId] = set()
    deltas: set[PeerId] = set()
    for send in (*opened, *answered):
        assert isinstance(send.message, Syn | SynAck)
        digests |= {entry.origin for entry in send.message.digest}
        if isinstance(send.message, SynAck):
            deltas |= {delta.origin for delta in send.message.deltas}
    return digests, deltas


def test_nobody_is_told_of_who_may_be_made_up() -> None:
    mine = linked(LIAR, OTHER)
    mine.receive(LIAR, tells(THIRD, 7, Change(b"card", 1, b"x")), 0.0)
    for heartbeat in (1, 2, 3):
        mine.receive(LIAR, Syn((DigestEntry(THIRD, 7, heartbeat, 1, 0),)), 1.0)
    assert mine.states()[THIRD] is PeerState.UP
    assert THIRD not in set.union(*told(mine, 2.0))
    mine.prove(THIRD)
    digests, deltas = told(mine, 4.0)
    assert THIRD in digests & deltas


def test_a_link_is_proof_to_its_ends_alone() -> None:
    """Whom others could not tell from one that is made up, they are not told of."""
    mine = linked(LIAR, OTHER)
    mine.alive(THIRD, 0.0)
    mine.receive(THIRD, tells(THIRD, 7, Change(b"card", 1, b"x")), 0.0)
    assert mine.is_member(THIRD)
    assert THIRD not in set.union(*told(mine, 2.0))
    assert OriginReset(THIRD) not in mine.tick(UNPROVEN_S, [])
    mine.link_lost(THIRD, UNPROVEN_S)
    assert mine.is_member(THIRD)
    assert OriginReset(THIRD) not in mine.tick(UNPROVEN_S, [])


def test_who_tells_of_one_that_may_be_made_up_hears_what_is_lacking() -> None:
    """Or else a member whose chain comes late would stay unknown."""
    mine = linked(LIAR, OTHER)
    mine.receive(LIAR, Syn((DigestEntry(THIRD, 7, 1, 4, 0),)), 0.0)
    [send] = mine.receive(OTHER, Syn((DigestEntry(THIRD, 7, 1, 4, 0),)), 0.0)
    assert isinstance(send, Send)
    assert isinstance(send.message, SynAck)
    assert DigestEntry(THIRD, 7, 1, 0, 0) in send.message.digest


def test_who_is_not_proven_to_be_a_member_is_forgotten() -> None:
    mine = linked(LIAR, OTHER)
    member = peer_id(9)
    mine.prove(member)
    for origin in (THIRD, member):
        mine.receive(LIAR, tells(origin, 7, Change(b"card", 1, b"x")), 0.0)
    for heartbeat in range(3):
        mine.receive(LIAR, Syn((DigestEntry(THIRD, 7, heartbeat, 1, 0),)), UNPROVEN_S - 1)
    assert OriginReset(THIRD) not in mine.tick(UNPROVEN_S - 1, [])
    assert OriginReset(THIRD) in mine.tick(UNPROVEN_S, [])
    assert set(mine.states()) == {LIAR, OTHER, member}


def test_members_that_come_and_go_and_tell_nothing_are_forgotten() -> None:
    """Whoever may invite can make up any number of them."""
    mine = linked(LIAR)
    mine.receive(LIAR, tells(LIAR, 7, Change(b"card", 1, b"x")), 0.0)
    passers_by = [peer_id(number) for number in range(100, 110)]
    for peer in passers_by:
        mine.alive(peer, 1.0)
        mine.link_lost(peer, 1.0)
    mine.alive(passers_by[0], 2.0)
    mine.link_lost(LIAR, 2.0)
    for now in range(3, int(UNPROVEN_S)):
        mine.tick(now, [])
        assert set(mine.states()) == {LIAR, *passers_by}
    effects = mine.tick(UNPROVEN_S + 5, [])
    assert [e.origin for e in effects if isinstance(e, OriginReset)] == sorted(passers_by[1:])
    assert not any(mine.is_member(peer) for peer in passers_by[1:])
    assert set(mine.states()) == {LIAR, passers_by[0]}, "who told something may come back"


def test_a_false_chain_is_held_against_nobody_with_a_link() -> None:
    mine = linked(LIAR, THIRD)
    for origin in (THIRD, OTHER):
        mine.receive(LIAR, tells(origin, 7, Change(b"chain", 1, b"forged")), 0.0)
    assert mine.disprove(THIRD) == []
    assert mine.disprove(OTHER) == [OriginReset(OTHER)]
    assert set(mine.states()) == {LIAR, THIRD}


def fill(mine: Gossip, origin: PeerId, count: int) -> list[Disbelieved]:
    """Tell of so many of the largest records; who was not believed."""
    found = []
    for version in range(1, count + 1):
        change = Change(version.to_bytes(8, "big"), version, bytes(RECORD_VALUE_BYTES_MAX))
        effects = mine.receive(LIAR, tells(origin, 1, change), 0.0)
        found += [effect for effect in effects if isinstance(effect, Disbelieved)]
    return found


def test_one_origin_has_no_more_bytes_than_a_true_one() -> None:
    mine = linked(LIAR)
    most = ORIGIN_BYTES_MAX // RECORD_VALUE_BYTES_MAX
    assert not fill(mine, LIAR, most)
    assert fill(mine, LIAR, most + 5)[-1].by == LIAR
    assert len(mine.records(LIAR)) <= most + 1


def test_however_much_is_told_of_others_each_has_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replicas, "REPLICAS_BYTES_MAX", 1 << 20)
    mine = linked(LIAR)
    for number in range(100, 110):
        fill(mine, peer_id(number), 20)
    held = sum(len(mine.records(peer_id(number))) for number in range(100, 110))
    assert held * RECORD_VALUE_BYTES_MAX < 3 << 20
    assert not fill(mine, THIRD, 4)
    assert len(mine.records(THIRD)) == 4
    # The tally is right after each round, whatever was forgotten meanwhile.
    assert fill(mine, OTHER, 20)
    for number in range(100, 110):
        mine.disprove(peer_id(number))
    mine.tick(1.0, [])
    assert not fill(mine, OTHER, 20)


def test_a_crowd_of_members_leaves_the_others_as_much_as_each_of_it_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is refused of an origin once is refused for good, its load too."""
    monkeypatch.setattr(replicas, "REPLICAS_BYTES_MAX", 4 << 20)
    mine = linked(LIAR, THIRD)
    crowd = [peer_id(number) for number in range(100, 108)]
    for member in crowd:
        mine.prove(member)
        fill(mine, member, 40)
    assert not fill(mine, THIRD, 4)
    mine.tick(1.0, [])
    assert not fill(mine, THIRD, 24)
    assert fill(mine, THIRD, 40)
    # Who may be made up may have no more than before.
    assert fill(mine, OTHER, 24)
