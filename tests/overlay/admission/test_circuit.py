"""Circuits through a relay that does what it likes with what it is given to pass on."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.admission import circuit
from overlay.admission.circuit import (
    SEED_BYTES,
    Broken,
    Circuit,
    Effect,
    Pass,
    Ready,
    Tag,
    Unsealed,
    opens,
    receiver_of,
)
from overlay.admission.handshake import Role
from overlay.errors import BadSignature, LocalProtocolError
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId

ANN, BOB, EVE = (NodeKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))


class Pair:
    """Ann dials Bob. What they send lies in a list, until the test delivers it."""

    def __init__(self, seeds: tuple[int, int] = (10, 11)) -> None:
        self.dialer = Circuit(Role.DIALER, ANN, BOB.peer_id, bytes([seeds[0]]) * SEED_BYTES)
        self.listener = Circuit(Role.LISTENER, BOB, ANN.peer_id, bytes([seeds[1]]) * SEED_BYTES)
        #: All that was ever sent, by whom it is for.
        self.sent: dict[Circuit, list[bytes]] = {self.listener: [self.dialer.open()]}
        self.sent[self.dialer] = []
        self.told: dict[Circuit, list[Effect]] = {self.dialer: [], self.listener: []}

    def other(self, end: Circuit) -> Circuit:
        return self.listener if end is self.dialer else self.dialer

    def deliver(self, end: Circuit, payload: bytes) -> None:
        for effect in end.receive(payload):
            if isinstance(effect, Pass):
                self.sent[self.other(end)].append(effect.payload)
            else:
                self.told[end].append(effect)

    def shake_hands(self) -> Pair:
        self.deliver(self.listener, self.sent[self.listener][0])
        self.deliver(self.dialer, self.sent[self.dialer][0])
        self.deliver(self.listener, self.sent[self.listener][1])
        return self

    def seal(self, sender: Circuit, *messages: bytes) -> list[bytes]:
        sealed = [sender.seal(message) for message in messages]
        self.sent[self.other(sender)] += sealed
        return sealed


def unsealed(effects: Iterable[Effect]) -> list[bytes]:
    return [effect.data for effect in effects if isinstance(effect, Unsealed)]


def test_both_ends_are_ready_and_understand_each_other() -> None:
    pair = Pair().shake_hands()
    assert pair.told == {pair.dialer: [Ready()], pair.listener: [Ready()]}
    for end in (pair.dialer, pair.listener):
        for sealed in pair.seal(end, b"one", b"", b"x" * 100_000):
            pair.deliver(pair.other(end), sealed)
        assert unsealed(pair.told[pair.other(end)]) == [b"one", b"", b"x" * 100_000]


def test_each_payload_says_which_end_it_is_for() -> None:
    pair = Pair().shake_hands()
    pair.seal(pair.dialer, b"there")
    pair.seal(pair.listener, b"back")
    assert {receiver_of(p) for p in pair.sent[pair.listener]} == {Role.LISTENER}
    assert {receiver_of(p) for p in pair.sent[pair.dialer]} == {Role.DIALER}
    assert [opens(payload) for payload in pair.sent[pair.listener]] == [True, False, False]
    assert receiver_of(b"") is receiver_of(b"\x09") is None
    an_open = pair.sent[pair.listener][0]
    assert not any(opens(tag.value + an_open[1:]) for tag in Tag if tag is not Tag.OPEN)


def test_nothing_of_a_message_can_be_seen() -> None:
    pair = Pair().shake_hands()
    secret = b"the prompt of a friend"
    pair.seal(pair.dialer, secret, secret)
    seen = b"".join(pair.sent[pair.listener] + pair.sent[pair.dialer])
    assert secret not in seen
    assert len(set(pair.sent[pair.listener])) == 4


def test_a_circuit_of_the_same_nodes_has_other_keys() -> None:
    first, second = Pair().shake_hands(), Pair((20, 21)).shake_hands()
    [sealed] = first.seal(first.dialer, b"old")
    second.deliver(second.listener, sealed)
    assert unsealed(second.told[second.listener]) == []
    [sealed] = second.seal(second.dialer, b"new")
    second.deliver(second.listener, sealed)
    assert unsealed(second.told[second.listener]) == [b"new"]


@pytest.mark.parametrize("role", list(Role))
def test_a_relay_can_take_neither_part(role: Role) -> None:
    """Eve relays for Ann and Bob, and shakes hands with one of them in the other's name."""
    if role is Role.LISTENER:
        victim = Circuit(Role.DIALER, ANN, BOB.peer_id, bytes(32))
        eve = Circuit(Role.LISTENER, EVE, ANN.peer_id, bytes([9]) * 32)
        [accept] = eve.receive(victim.open())
        assert isinstance(accept, Pass)
        assert victim.receive(accept.payload) == []
    else:
        victim = Circuit(Role.LISTENER, BOB, ANN.peer_id, bytes(32))
        eve = Circuit(Role.DIALER, EVE, BOB.peer_id, bytes([9]) * 32)
        [accept] = victim.receive(eve.open())
        assert isinstance(accept, Pass)
        assert eve.receive(accept.payload) == []
        ends = (bytes(ANN.peer_id), eve.open()[1:], bytes(BOB.peer_id), accept.payload[1:33])
        statement = b"".join((b"hearth circuit 1", b"dialer", *ends))
        # This is what Ann would sign.
        assert victim.receive(Tag.CONFIRM.value + EVE.sign(statement)) == []
        assert not victim.ready
        assert victim.receive(Tag.CONFIRM.value + ANN.sign(statement)) == [Ready()]
        return
    assert not victim.ready


def test_keys_that_a_relay_swapped_are_not_those_that_were_signed() -> None:
    pair = Pair()
    middle = Circuit(Role.DIALER, ANN, BOB.peer_id, bytes(32)).open()
    pair.deliver(pair.listener, middle)
    [accept] = pair.sent[pair.dialer]
    pair.deliver(pair.dialer, accept)
    # Nor is a key of the relay's own with a signature of Bob's.
    pair.deliver(pair.dialer, accept[:1] + middle[1:] + accept[33:])
    assert pair.told[pair.dialer] == []
    assert not pair.dialer.ready


def test_what_was_signed_in_one_role_is_worth_nothing_in_the_other() -> None:
    pair = Pair()
    pair.deliver(pair.listener, pair.sent[pair.listener][0])
    [accept] = pair.sent[pair.dialer]
    pair.deliver(pair.listener, Tag.CONFIRM.value + accept[33:])
    assert not pair.listener.ready


def test_a_forged_answer_does_not_keep_the_true_one_out() -> None:
    pair = Pair()
    pair.deliver(pair.listener, pair.sent[pair.listener][0])
    [accept] = pair.sent[pair.dialer]
    for forged in (
        Tag.ACCEPT.value + bytes(32) + bytes(64),
        Tag.ACCEPT.value + bytes([7]) * 96,
        accept[:-1],
        accept + b"x",
        bytes([accept[0]]) + accept[1:33] + bytes(64),
    ):
        pair.deliver(pair.dialer, forged)
    pair.deliver(pair.dialer, accept)
    assert pair.told[pair.dialer] == [Ready()]


@pytest.mark.parametrize("tag", [Tag.ACCEPT, Tag.CONFIRM])
def test_forgeries_without_end_are_not_verified(tag: Tag, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.deliver(pair.listener, pair.sent[pair.listener][0])
    end = pair.dialer if tag is Tag.ACCEPT else pair.listener
    verified: list[bytes] = []

    def reject(signer: PeerId, statement: bytes, signature: bytes) -> None:
        verified.append(signature)
        raise BadSignature("forged")

    monkeypatch.setattr(circuit, "verify", reject)
    key = BOB.curve_secret if tag is Tag.ACCEPT else b""
    for size in range(100):
        pair.deliver(end, tag.value + key + bytes(size))
    assert 0 < len(verified) < 10
    assert not end.ready


def test_an_open_that_comes_twice_is_known() -> None:
    pair = Pair()
    [first] = pair.sent[pair.listener]
    assert not pair.listener.is_opened_by(first)
    pair.shake_hands()
    assert pair.listener.is_opened_by(first)
    pair.deliver(pair.listener, first)
    assert len(pair.sent[pair.dialer]) == 1
    assert not pair.listener.is_opened_by(Pair((30, 31)).dialer.open())


def test_a_lost_message_is_the_end() -> None:
    pair = Pair().shake_hands()
    first, _, third = pair.seal(pair.dialer, b"1", b"2", b"3")
    pair.deliver(pair.listener, first)
    pair.deliver(pair.listener, third)
    [_, one, broken] = pair.told[pair.listener]
    assert one == Unsealed(b"1")
    assert isinstance(broken, Broken)
    assert pair.listener.broken


def test_a_wrong_seed_is_our_bug() -> None:
    with pytest.raises(LocalProtocolError):
        Circuit(Role.DIALER, ANN, BOB.peer_id, b"short")


class _Relay:
    """Does to a pair what hypothesis says, and then is asked whether the channel held."""

    def __init__(self, draw: st.DataObject) -> None:
        self.draw = draw
        self.pair = Pair()
        self.said: dict[Circuit, list[bytes]] = {self.pair.dialer: [], self.pair.listener: []}

    def step(self) -> None:
        pair = self.pair
        end = self.draw.draw(st.sampled_from([pair.dialer, pair.listener]), "end")
        heap = pair.sent[end]
        others = pair.sent[pair.other(end)]
        what = self.draw.draw(st.sampled_from(["say", "next", "any", "bend", "forge", "reflect"]))
        if what == "say" and end.ready:
            message = bytes([len(self.said[end])]) * 3
            self.said[end].append(message)
            pair.seal(end, message)
        elif what == "next" and heap:
            index = min(len(pair.told[end]) + len(self.said[end]), len(heap) - 1)
            pair.deliver(end, heap[index])
        elif what == "any" and heap:
            pair.deliver(end, self.draw.draw(st.sampled_from(heap)))
        elif what == "bend" and heap:
            victim = bytearray(self.draw.draw(st.sampled_from(heap)))
            at = self.draw.draw(st.integers(0, len(victim) - 1), "at")
            victim[at] ^= self.draw.draw(st.integers(1, 255), "bits")
            pair.deliver(end, bytes(victim))
        elif what == "forge":
            tag = self.draw.draw(st.sampled_from(list(Tag)))
            pair.deliver(end, tag.value + self.draw.draw(st.binary(max_size=120)))
        elif what == "reflect" and others:
            pair.deliver(end, self.draw.draw(st.sampled_from(others)))

    def check(self) -> None:
        for end in (self.pair.dialer, self.pair.listener):
            got = unsealed(self.pair.told[end])
            assert got == self.said[self.pair.other(end)][: len(got)]
            assert self.pair.told[end].count(Ready()) == end.ready
            if end.broken:
                assert isinstance(self.pair.told[end][-1], Broken)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.booleans())
def test_whatever_a_relay_does_what_arrives_is_the_beginning_of_what_was_said(
    data: st.DataObject, shaken: bool
) -> None:
    relay = _Relay(data)
    if shaken:
        relay.pair.shake_hands()
    for _ in range(data.draw(st.integers(1, 40), "steps")):
        relay.step()
        relay.check()


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_a_relay_that_only_passes_on_loses_nothing(messages: list[bytes]) -> None:
    pair = Pair().shake_hands()
    for sealed in pair.seal(pair.dialer, *messages):
        pair.deliver(pair.listener, sealed)
        pair.deliver(pair.listener, sealed)
    assert unsealed(pair.told[pair.listener]) == messages
