"""Links without sockets: two ends, a clock that the test owns."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.admission.handshake import Handshake, LocalNode, Role
from overlay.errors import HearthError, LimitExceeded
from overlay.identity.certificates import Membership, found_mesh, issue
from overlay.identity.invites import InviteLedger
from overlay.identity.keys import NodeKey, curve_public
from overlay.identity.revocations import Revocations
from overlay.limits import (
    BATCH_FRAMES_MAX,
    CERTIFICATE_TTL_S,
    HANDSHAKE_S,
    PING_INTERVAL_S,
    RTT_INTERVAL_S,
    STRANGER_MESSAGE_BYTES_MAX,
)
from overlay.sim.clock import Clock
from overlay.transport.link import (
    CROSSING_S,
    SILENCE_S,
    Direction,
    Down,
    Gone,
    Link,
    LinkEvent,
    LinkState,
    Measured,
    Received,
    Transmit,
    Up,
)
from overlay.transport.pings import DEAF_S
from overlay.wire.between_transports import DialBack, Moved, Relay
from overlay.wire.codec import decode, encode
from overlay.wire.messages import (
    Batch,
    Cancel,
    Goodbye,
    JoinRequest,
    Message,
    Ping,
    Pong,
    Refusal,
    StreamAck,
)

TODAY = 1_700_000_000.0
FOUNDER = NodeKey.from_seed(bytes(32))
MEMBER = NodeKey.from_seed(bytes([1]) * 32)
FOUNDED = found_mesh(FOUNDER, bytes(32))
CHAIN = issue(FOUNDER, FOUNDED, MEMBER.peer_id, TODAY)
ME = LocalNode(FOUNDER, FOUNDED, "founder", ())
OTHER = LocalNode(MEMBER, Membership(FOUNDER.peer_id, FOUNDED.mesh_secret, CHAIN), "member", ())


def link(
    me: LocalNode,
    remote: NodeKey,
    role: Role,
    now: float = 0.0,
    unwelcome: Callable[[], HearthError | None] = lambda: None,
) -> Link:
    handshake = Handshake(
        role=role,
        me=me,
        remote_curve=curve_public(remote.peer_id),
        token=None,
        ledger=InviteLedger(me.key.peer_id),
        revocations=Revocations(me.key.peer_id),
        nonce=bytes(16),
        now=now,
    )
    return Link(handshake, "tcp://192.0.2.1:7710", now, unwelcome)


class Pair:
    """A dialler and a listener with ``delay_s`` between them each way."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.now = 0.0
        self.dialler = link(ME, MEMBER, Role.DIALER)
        self.listener = link(OTHER, FOUNDER, Role.LISTENER)
        self.said: dict[Link, list[LinkEvent]] = {self.dialler: [], self.listener: []}
        self.carry(self.dialler, self.dialler.open())
        self.carry(self.listener, self.listener.open())

    def carry(self, sender: Link, events: Iterable[LinkEvent]) -> None:
        """Deliver what is transmitted, and what follows from it; keep the rest."""
        other = self.listener if sender is self.dialler else self.dialler
        for event in events:
            if isinstance(event, Transmit):
                sender.sent(len(event.data))
                before, self.now = self.now, self.now + self.delay_s
                self.carry(other, other.receive(event.data, self.now, TODAY))
                self.now = before
            else:
                self.said[sender].append(event)


class Clocked:
    """A pair's ends that tick by themselves, each from its own start on, in virtual time.

    ``late_s``: by how much each tick is late.
    """

    def __init__(
        self, starts: Sequence[float], delay_s: float, late_s: Callable[[], float]
    ) -> None:
        self.pair = Pair()
        self.clock = Clock()
        self.transmitted = 0
        #: Says nothing any more.
        self.mute: Link | None = None
        #: When each end heard something, and a Pong.
        self.heard: dict[Link, list[float]] = defaultdict(lambda: [0.0])
        self.pongs: dict[Link, list[float]] = defaultdict(lambda: [0.0])
        self._delay_s = delay_s
        self._late_s = late_s
        for end, start in zip((self.pair.dialler, self.pair.listener), starts, strict=True):
            self.clock.at(start, self._tick, end)

    @property
    def now(self) -> float:
        return self.clock.now

    def run(self, seconds: float) -> None:
        end_s = self.now + seconds
        self.clock.at(end_s, lambda: None)
        while self.now < end_s:
            self.clock.step()

    def _tick(self, end: Link) -> None:
        self._say(end, end.tick(self.now, TODAY))
        self.clock.at(self.now + PING_INTERVAL_S + self._late_s(), self._tick, end)

    def _say(self, end: Link, events: Iterable[LinkEvent]) -> None:
        other = self.pair.listener if end is self.pair.dialler else self.pair.dialler
        for event in events:
            if isinstance(event, Transmit) and end is not self.mute:
                self.transmitted += 1
                self.clock.at(self.now + self._delay_s, self._hear, other, event.data)

    def _hear(self, end: Link, data: bytes) -> None:
        self.heard[end].append(self.now)
        if isinstance(decode(data), Pong):
            self.pongs[end].append(self.now)
        self._say(end, end.receive(data, self.now, TODAY))


def messages(events: Iterable[LinkEvent]) -> list[Message]:
    return [decode(event.data) for event in events if isinstance(event, Transmit)]


def up() -> Link:
    return Pair().listener


def test_both_ends_come_up() -> None:
    pair = Pair()
    event, measured = pair.said[pair.dialler]
    assert isinstance(event, Up)
    assert isinstance(measured, Measured)
    assert event.peer == pair.dialler.peer == MEMBER.peer_id
    event, measured = pair.said[pair.listener]
    assert isinstance(event, Up)
    assert isinstance(measured, Measured)
    assert event.peer == pair.listener.peer == FOUNDER.peer_id


def test_the_round_trip_is_known_as_soon_as_the_link_is_up() -> None:
    pair = Pair(delay_s=0.025)
    for end in (pair.dialler, pair.listener):
        assert end.status().rtt_ms == pytest.approx(50)


def test_round_trips_are_smoothed() -> None:
    pair = Pair(delay_s=0.010)
    pair.delay_s = 0.050
    assert pair.dialler.tick(1.0, TODAY) == []
    pair.now = 2.0
    pair.carry(pair.dialler, pair.dialler.tick(pair.now, TODAY))
    assert pair.dialler.status().rtt_ms == pytest.approx(20 + 80 / 4)


def test_what_one_end_sends_is_counted_and_the_other_receives_it() -> None:
    pair, sent = Pair(), encode(Cancel(b"id"))
    before = pair.dialler.status()
    pair.carry(pair.dialler, [Transmit(sent)])
    assert pair.said[pair.listener][-1] == Received(Cancel(b"id"), len(sent))
    after = pair.dialler.status()
    assert after.sent_messages == before.sent_messages + 1
    assert after.sent_bytes == before.sent_bytes + len(sent)


def test_answers_to_no_question_measure_nothing() -> None:
    end = up()
    before = end.status().rtt_ms
    for nonce in (0, 7, 2**63):
        assert end.receive(encode(Pong(nonce)), 5.0, TODAY) == []
    assert end.status().rtt_ms == before


def test_a_late_answer_counts_from_its_own_ping() -> None:
    end = up()
    before = end.status().rtt_ms
    [first] = messages(end.tick(1.0, TODAY))
    end.tick(2.0, TODAY)
    assert isinstance(first, Ping)
    [measured] = end.receive(encode(Pong(first.nonce)), 2.5, TODAY)
    assert before is not None
    assert isinstance(measured, Measured)
    assert measured.rtt_ms == pytest.approx(before + (1500 - before) / 4)


def test_silence_is_the_end() -> None:
    end = up()
    now = 0.0
    while now + PING_INTERVAL_S <= SILENCE_S:
        now += PING_INTERVAL_S
        assert [type(message) for message in messages(end.tick(now, TODAY))] == [Ping]
    assert end.tick(now + PING_INTERVAL_S, TODAY) == [Down("silent for 3 s")]


def test_any_message_breaks_the_silence() -> None:
    end = up()
    for second in range(1, 20):
        end.receive(encode(Cancel(b"")), float(second), TODAY)
        end.tick(float(second), TODAY)
    assert end.state is LinkState.UP


def test_who_speaks_and_reads_nothing_is_cut() -> None:
    """Else what is sent to it would pile up, a mebibyte with each message."""
    end = up()
    second, events = 0, []
    while end.state is LinkState.UP:
        second += 1
        assert second <= DEAF_S + 2 * PING_INTERVAL_S
        end.receive(encode(Pong(second)), second - 0.5, TODAY)
        events = end.tick(float(second), TODAY)
    [down] = events
    assert isinstance(down, Down)
    assert down.reason == "answers no ping for 30 s"
    assert down.error is not None, "the log is to name it"
    assert second > DEAF_S


def test_who_is_sent_much_is_asked_each_time_whether_it_has_read_that() -> None:
    end = up()
    pinged: list[Ping] = []
    for second in range(1, 8):
        end.receive(encode(Cancel(b"")), second - 0.5, TODAY)
        end.sent(2 << 20)
        for ping in messages(end.tick(float(second), TODAY)):
            assert isinstance(ping, Ping)
            pinged.append(ping)
        assert len(pinged) == second
    assert end.unread_bytes >= 7 * (2 << 20)
    end.receive(encode(Pong(pinged[3].nonce)), 7.0, TODAY)
    assert end.unread_bytes == 3 * (2 << 20)
    end.receive(encode(Pong(pinged[3].nonce)), 7.0, TODAY)
    end.receive(encode(Pong(1)), 7.0, TODAY)
    assert end.unread_bytes == 3 * (2 << 20)


def test_a_busy_link_is_pinged_for_its_round_trip_alone() -> None:
    end = up()
    pinged = []
    for second in range(1, 20):
        end.receive(encode(Cancel(b"")), second - 0.5, TODAY)
        if messages(end.tick(float(second), TODAY)):
            pinged.append(second)
    assert pinged == [5, 10, 15]


@given(
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2),
    st.floats(0.001, 0.2),
    st.floats(0.0, 0.01),
    st.randoms(use_true_random=False),
)
def test_on_an_idle_link_one_ping_does_for_both_ends(
    starts: list[float], delay_s: float, late_s: float, rng: Random
) -> None:
    """Whatever the phases of the ends' ticks, each of which comes up to ``late_s`` late."""
    clocked = Clocked(starts, delay_s, lambda: rng.uniform(0.0, late_s))
    clocked.run(60.0)
    # Both ends ping in every other second if their ticks coincide, or else they take turns.
    assert clocked.transmitted <= 2.1 * 60
    for end, heard in clocked.heard.items():
        assert end.state is LinkState.UP
        assert max(late - early for early, late in pairwise(heard)) < SILENCE_S - 0.5
    for measured in clocked.pongs.values():
        gaps = [late - early for early, late in pairwise([*measured, clocked.now])]
        assert max(gaps) < RTT_INTERVAL_S + 2 * delay_s


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(10.0, 14.0))
def test_whoever_dies_without_a_word_is_found_silent(
    start: float, other_start: float, dies_at: float
) -> None:
    clocked = Clocked([start, other_start], 0.01, lambda: 0.0)
    clocked.run(dies_at)
    clocked.mute = clocked.pair.listener
    clocked.run(SILENCE_S + PING_INTERVAL_S + 0.02)
    assert clocked.pair.dialler.state is LinkState.DOWN


def test_being_held_up_ourselves_is_no_silence_of_the_peer() -> None:
    end = up()
    end.tick(1.0, TODAY)
    assert [type(message) for message in messages(end.tick(60.0, TODAY))] == [Ping]
    assert end.state is LinkState.UP
    # Two of the 60 s were the peer's.
    assert messages(end.tick(61.0, TODAY))
    assert end.tick(62.0, TODAY) == [Down("silent for 3 s")]


@pytest.mark.parametrize("speaks", [False, True])
def test_what_was_read_before_it_shows_that_we_were_held_up_excuses_no_silence(
    speaks: bool,
) -> None:
    """The loop reads first what came meanwhile. What follows is the peer's own silence."""
    end = up()
    [ping] = messages(end.tick(1.0, TODAY))
    assert isinstance(ping, Ping)
    end.receive(encode(Pong(ping.nonce)), 60.0, TODAY)
    second, events = 60, end.tick(60.0, TODAY)
    while end.state is LinkState.UP:
        second += 1
        if speaks:
            end.receive(encode(Cancel(b"")), second - 0.5, TODAY)
        events = end.tick(float(second), TODAY)
    [down] = events
    assert isinstance(down, Down)
    assert (second, down.reason) == (
        (91, "answers no ping for 30 s") if speaks else (64, "silent for 3 s")
    )


def test_who_shows_no_membership_in_time_is_refused() -> None:
    end = link(ME, MEMBER, Role.LISTENER)
    assert end.tick(HANDSHAKE_S / 2, TODAY) == []
    transmit, down = end.tick(HANDSHAKE_S, TODAY)
    [refusal] = messages([transmit])
    assert isinstance(refusal, Refusal)
    assert isinstance(down, Down)
    assert down.reason == refusal.message


def test_who_says_hello_too_late_is_refused() -> None:
    dialler, listener = link(ME, MEMBER, Role.DIALER), link(OTHER, FOUNDER, Role.LISTENER)
    [hello] = dialler.open()
    assert isinstance(hello, Transmit)
    refusal, down = listener.receive(hello.data, HANDSHAKE_S, TODAY)
    assert isinstance(refusal, Transmit)
    assert isinstance(decode(refusal.data), Refusal)
    assert isinstance(down, Down)
    assert "took more than" in down.reason


def test_who_is_banned_before_it_says_hello_is_refused() -> None:
    """Else whoever floods could keep a hello for later, on a link that was begun before."""
    bans: list[HearthError] = []
    dialler = link(ME, MEMBER, Role.DIALER, unwelcome=lambda: next(iter(bans), None))
    listener = link(OTHER, FOUNDER, Role.LISTENER)
    [hello] = dialler.open()
    assert isinstance(hello, Transmit)
    listener.open()
    answer = listener.receive(hello.data, 0.0, TODAY)[0]
    assert isinstance(answer, Transmit)
    bans.append(LimitExceeded("banned"))
    refusal, down = dialler.receive(answer.data, 1.0, TODAY)
    assert isinstance(refusal, Transmit)
    assert isinstance(decode(refusal.data), Refusal)
    assert down == Down("banned", bans[0])
    assert dialler.state is LinkState.DOWN


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, -TODAY])
def test_a_clock_that_is_set_anew_changes_nothing_of_what_takes_its_time(jump_s: float) -> None:
    end = link(ME, MEMBER, Role.LISTENER)
    assert end.tick(HANDSHAKE_S / 2, TODAY + jump_s) == []
    assert isinstance(end.tick(HANDSHAKE_S, TODAY + jump_s)[-1], Down)
    pair = Pair()
    assert [type(each) for each in messages(pair.dialler.tick(1.0, TODAY + jump_s))] == [Ping]
    assert pair.dialler.state is LinkState.UP


def test_goodbye_is_the_end_for_both() -> None:
    pair = Pair()
    goodbye, down = pair.dialler.say_goodbye("enough")
    assert down == Down("enough")
    assert pair.dialler.leaving
    pair.carry(pair.dialler, [goodbye])
    assert pair.said[pair.listener][-2:] == [
        Received(Goodbye("enough"), len(encode(Goodbye("enough")))),
        Down("said goodbye: enough"),
    ]
    assert pair.said[pair.dialler][-1] == Gone()
    assert pair.dialler.say_goodbye("again") == []
    assert not pair.dialler.leaving


def test_both_say_goodbye_at_once() -> None:
    pair = Pair()
    ours, _ = pair.dialler.say_goodbye("enough")
    theirs, _ = pair.listener.say_goodbye("enough")
    pair.carry(pair.dialler, [ours])
    pair.carry(pair.listener, [theirs])
    assert pair.said[pair.dialler][-1] == pair.said[pair.listener][-1] == Gone()


def test_after_goodbye_nothing_else_counts() -> None:
    end = up()
    end.say_goodbye("enough")
    for data in (encode(Cancel(b"")), encode(Ping(1)), b"garbage"):
        assert end.receive(data, 1.0, TODAY) == []
    assert end.tick(100.0, TODAY) == []


@given(st.lists(st.binary(max_size=60), max_size=5), st.sampled_from([*Role]), st.booleans())
def test_no_bytes_do_harm_and_nothing_follows_the_end(
    chunks: list[bytes], role: Role, admitted: bool
) -> None:
    end = up() if admitted else link(ME, MEMBER, role)
    events = list(itertools.chain(*(end.receive(chunk, 1.0, TODAY) for chunk in chunks)))
    events += end.tick(2.0, TODAY)
    ends = [index for index, event in enumerate(events) if isinstance(event, Down)]
    assert ends in ([], [len(events) - 1])
    assert (end.state is LinkState.DOWN) == bool(ends)


def test_a_link_ends_with_the_membership() -> None:
    pair = Pair()
    assert messages(pair.dialler.tick(1.0, TODAY + CERTIFICATE_TTL_S - 1)) != []
    events = pair.dialler.tick(2.0, TODAY + CERTIFICATE_TTL_S)
    [refusal] = messages(events)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "not-a-member"
    assert isinstance(events[-1], Down)
    assert "has expired" in events[-1].reason
    # The founder's does not.
    assert messages(pair.listener.tick(2.0, TODAY + CERTIFICATE_TTL_S)) != []
    assert pair.listener.state is LinkState.UP


@pytest.mark.parametrize(("excess", "code"), [(0, "malformed"), (1, "limit-exceeded")])
def test_what_a_stranger_says_at_length_is_not_even_read(excess: int, code: str) -> None:
    noise = bytes(STRANGER_MESSAGE_BYTES_MAX + excess)
    [refusal] = messages(link(ME, MEMBER, Role.LISTENER).receive(noise, 1.0, TODAY))
    assert isinstance(refusal, Refusal)
    assert refusal.code == code


def acks(count: int) -> Batch:
    return Batch((), tuple(StreamAck(bytes(16), seq) for seq in range(count)))


_RELAYED, _DIRECT = "relayed", "direct"
_DIALLED, _LISTENED = Direction.OUTGOING, Direction.INCOMING


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        (acks(BATCH_FRAMES_MAX), {_RELAYED, _DIRECT, _DIALLED, _LISTENED}),
        (acks(BATCH_FRAMES_MAX + 1), set()),
        (JoinRequest(bytes(8), bytes(32), ""), set()),
        (Relay(MEMBER.peer_id, b""), {_DIRECT, _DIALLED, _LISTENED}),
        (Moved(), {_RELAYED, _DIALLED, _LISTENED}),
        (DialBack(7710), {_DIRECT, _LISTENED}),
    ],
)
def test_what_may_be_said_hangs_on_the_link(message: Message, allowed: set[str]) -> None:
    for relay in (None, NodeKey.from_seed(bytes([2]) * 32).peer_id):
        for direction in Direction:
            end = up()
            end.direction, end.relay = direction, relay
            way = _DIRECT if relay is None else _RELAYED
            events = end.receive(encode(message), 1.0, TODAY)
            received = [each.message for each in events if isinstance(each, Received)]
            assert received == ([message] if {way, direction} <= allowed else [])
            assert (end.state is LinkState.UP) == bool(received)


def test_who_dials_again_has_lost_what_it_had() -> None:
    relay = NodeKey.from_seed(bytes([2]) * 32).peer_id
    first, again = (link(ME, MEMBER, Role.LISTENER, now) for now in (0.0, 0.1))
    assert again.replaces(first)
    first.relay = relay
    assert not again.replaces(first), "there may be one of each kind"
    again.relay = relay
    assert again.replaces(first)


def test_who_dials_has_no_link_that_was_dialled_here_unless_they_crossed() -> None:
    ours = link(ME, MEMBER, Role.DIALER)
    assert link(ME, MEMBER, Role.LISTENER, CROSSING_S + 0.1).replaces(ours)
    crossing = link(ME, MEMBER, Role.LISTENER, CROSSING_S - 0.1)
    assert not crossing.replaces(ours)
    assert not link(ME, MEMBER, Role.DIALER, 60.0).replaces(crossing), "this end knows its own"


def test_who_is_at_the_other_end() -> None:
    end = link(ME, MEMBER, Role.LISTENER)
    assert end.whom == "tcp://192.0.2.1"
    end.endpoint = "192.0.2.1"
    assert end.whom == "192.0.2.1"
    assert up().whom == str(FOUNDER.peer_id)
