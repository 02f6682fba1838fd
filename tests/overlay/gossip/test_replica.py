"""Collected tombstones: what was deleted never comes back, over however many messages."""

from __future__ import annotations

from overlay.gossip.replica import Applied, OwnRecords, Replica
from overlay.limits import TOMBSTONE_GRACE_S
from overlay.wire.anti_entropy import OriginDelta
from tests.overlay.gossip.mesh import peer_id

ORIGIN = peer_id(1)


def delta(source: Replica, receiver: Replica, count: int | None = None) -> OriginDelta:
    """What ``source`` sends to ``receiver``: the ``count`` oldest changes."""
    lack = source.lack_of(receiver.known)
    assert lack is not None
    lacking = tuple(lack.changes)
    changes = lacking[:count]
    whole = changes == lacking
    version = source.known.version if whole else changes[-1].version
    return OriginDelta(
        ORIGIN,
        source.known.incarnation,
        lack.after_version,
        lack.reset,
        changes,
        version,
        source.known.gc_version,
    )


def origin_with_a_collected_deletion() -> tuple[OwnRecords, Replica, Replica]:
    """The origin after collection; a replica from before the deletion, and one further behind."""
    own = OwnRecords(ORIGIN, 1)
    behind, before = Replica(ORIGIN, 1), Replica(ORIGIN, 1)
    own.write(b"a", b"", 0.0)
    behind.apply(delta(own, behind))
    own.write(b"b", b"", 0.0)
    own.write(b"doomed", b"", 0.0)
    own.write(b"c", b"", 0.0)
    before.apply(delta(own, before))
    own.write(b"doomed", None, 1.0)
    own.write(b"d", b"", 1.0)
    own.collect(2 * TOMBSTONE_GRACE_S)
    assert own.known.gc_version == 5
    return own, before, behind


def test_a_reset_may_span_messages_and_then_takes_nothing_from_before_the_collection() -> None:
    own, before, behind = origin_with_a_collected_deletion()
    stale = delta(before, behind)
    first = delta(own, behind, count=2)
    assert first.reset
    assert behind.apply(first).reset
    assert behind.known.version < behind.known.gc_version

    # `before` sent this when `behind` had not been reset yet; it arrives late.
    assert b"doomed" in {change.key for change in stale.changes}
    assert behind.apply(stale).changes == ()
    assert before.lack_of(behind.known) is None

    behind.apply(delta(own, behind, count=1))
    behind.apply(delta(own, behind))
    assert behind.records() == own.records()
    assert behind.known == own.known


def test_whoever_saw_the_deletion_collects_its_tombstone_too() -> None:
    own = OwnRecords(ORIGIN, 1)
    replica = Replica(ORIGIN, 1)
    own.write(b"k", b"", 0.0)
    own.write(b"k", None, 0.0)
    replica.apply(delta(own, replica))
    lack = replica.lack_of(None)
    assert lack is not None
    assert len(tuple(lack.changes)) == 1

    own.collect(2 * TOMBSTONE_GRACE_S)
    news = delta(own, replica)
    assert not news.reset
    replica.apply(news)
    lack = replica.lack_of(None)
    assert lack is not None
    assert not tuple(lack.changes)
    assert replica.known.gc_version == own.known.gc_version


def test_a_doubled_reset_is_taken_once() -> None:
    own, before, _ = origin_with_a_collected_deletion()
    reset = delta(own, before)
    assert before.apply(reset).reset
    assert before.records() == own.records()
    again = before.apply(reset)
    assert not again.reset
    assert again.changes == ()


def test_what_follows_a_gap_begins_no_incarnation_and_no_reset() -> None:
    """Taken in, it would hide for good what came before it."""
    own, _, behind = origin_with_a_collected_deletion()
    restarted = OwnRecords(ORIGIN, 2)
    restarted.write(b"x", b"", 0.0)
    restarted.write(b"y", b"", 0.0)
    knows_x = Replica(ORIGIN, 2)
    knows_x.apply(delta(restarted, knows_x, count=1))
    reset = delta(own, behind)
    known = behind.known
    assert reset.reset
    for late in (
        delta(restarted, knows_x),
        reset._replace(reset=False),
        reset._replace(reset=False, after_version=2),
    ):
        assert behind.apply(late) == Applied()
        assert behind.known[:2] == known[:2]
        assert behind.known.version == known.version
    assert behind.apply(reset).reset
    assert behind.records() == own.records()


def test_nothing_is_lacking_between_equals() -> None:
    own, before, _ = origin_with_a_collected_deletion()
    before.apply(delta(own, before))
    assert own.lack_of(before.known) is None
    assert before.lack_of(own.known) is None
