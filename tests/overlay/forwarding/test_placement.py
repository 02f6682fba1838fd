"""What a node knows of a job when it decides where it goes."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from overlay.errors import ModelNotFound
from overlay.forwarding.effects import Failure, ForwardingMessage
from overlay.forwarding.explanations import Explanation
from overlay.gossip.records import CARD, Card, ModelCard
from overlay.identity.peer_id import PeerId
from overlay.limits import HOP_LIMIT_DEFAULT, OPEN_REQUESTS_PER_PEER_MAX, STREAM_STALL_S
from overlay.wire.anti_entropy import Change
from overlay.wire.codec import decode
from overlay.wire.messages import Accepted, Begun, Forward, Refused, TokenFrame
from tests.overlay.forwarding.world import ANSWER, MODEL, World, forwarded, text_of

RID = b"r" * 16
TOKENS = tuple(range(640))
PROMPT = " ".join(str(t) for t in TOKENS)
WHOLE = "".join(text_of(t) for t in ANSWER)


def told(world: World) -> Explanation:
    return world.node(0).forwarder.explanations.find(RID.hex())


def test_what_was_answered_already_is_a_part_of_what_is_to_be_computed_elsewhere() -> None:
    world = World(3)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(7)
    world.kill(1)
    world.run()
    assert world.answer(0, RID) == WHOLE
    lengths = [attempt.decision.prompt_tokens for attempt in told(world).attempts]
    assert lengths == [640, 640 + 7]


@pytest.mark.parametrize(("cached", "uncached"), [(320, 320), (640, 0)])
def test_what_was_sent_to_a_peer_and_is_not_cached_there_comes_before_the_next(
    cached: int, uncached: int
) -> None:
    world = World(2)
    world.warm(1, TOKENS[:cached])
    world.submit(0, b"before" + bytes(10), PROMPT)
    world.submit(0, RID, PROMPT)
    (there,) = [e for e in told(world).attempts[0].decision.estimates if not e.is_self]
    # At 10 ms each, and a little more beside an answer.
    assert uncached * 10.0 <= there.wait_ms <= uncached * 12.0 + 50.0


@pytest.mark.parametrize("code", ["overloaded", "engine-failed", "context-length-exceeded"])
def test_only_who_finds_a_prompt_too_long_tells_of_its_length(code: str) -> None:
    """Then nobody else is asked whose context is no longer."""
    world = World(3, models={1, 2})
    for index in (1, 2):
        world.shorten(index, 700)
    world.submit(0, RID, PROMPT)
    first = asked(world).peer
    refused_by(world, first, code)
    others = [peer for _, peer, _ in world.wire]
    assert len(others) == (code != "context-length-exceeded")
    assert first not in others


def test_who_counted_a_prompts_tokens_believes_nobody_that_it_is_too_long() -> None:
    world = World(3)
    for index in range(3):
        world.shorten(index, 700)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    refused_by(world, asked(world).peer, "context-length-exceeded")
    world.run()
    assert world.answer(0, RID) == WHOLE


def test_who_finds_a_prompt_too_long_behind_a_relay_need_not_be_known_here() -> None:
    world = World(3, models={1, 2})
    world.submit(0, RID, PROMPT)
    origin, relay = world.node(0), asked(world).peer
    stranger = PeerId(b"s" * 32)
    accepted = Accepted(RID, stranger, 2, 640)
    world.carry_out(origin, origin.forwarder.receive(relay, accepted, world.now))
    refused_by(world, relay, "context-length-exceeded")
    assert world.wire, "others are asked"


@pytest.mark.parametrize("begun", [False, True])
def test_a_peer_has_four_times_what_its_answer_should_take_until_that_begins(begun: bool) -> None:
    world = World(3, models={1, 2})
    world.busy(1, pending_prefill_tokens=3000)
    world.busy(2, pending_prefill_tokens=3000)
    world.submit(0, RID, PROMPT)
    origin, peer = world.node(0), asked(world).peer
    expected_s = told(world).attempts[0].decision.chosen.cost_ms / 1000
    assert expected_s > STREAM_STALL_S
    told_by_peer: list[ForwardingMessage] = [Accepted(RID, peer, 1, 640), Begun(RID, 0, 1.0)]
    token = TokenFrame(RID, 0, ANSWER[:1], text_of(ANSWER[0]))
    for message in [*told_by_peer, token] if begun else told_by_peer:
        world.carry_out(origin, origin.forwarder.receive(peer, message, world.now))
    last_said = world.now
    while not world.wire:
        world.now = origin.forwarder.next_deadline()
        world.carry_out(origin, origin.forwarder.tick(world.now))
    waited_s = STREAM_STALL_S if begun else 4 * expected_s
    assert world.now - last_said == pytest.approx(waited_s)


# --- Who is asked again, and when ---------------------------------------------------------------


class Asked(NamedTuple):
    peer: PeerId
    forward: Forward


def asked(world: World) -> Asked:
    """Whom node 0 has just asked, and how; it does not arrive."""
    [(_, peer, sent)] = world.wire
    world.wire.clear()
    forward = decode(sent)
    assert isinstance(forward, Forward)
    return Asked(peer, forward)


def refused_by(world: World, peer: PeerId, code: str) -> None:
    origin = world.node(0)
    refused = Refused(RID, code, "no")
    world.carry_out(origin, origin.forwarder.receive(peer, refused, world.now))


@pytest.mark.parametrize("code", ["overloaded", "model-not-found", "no-route"])
def test_who_is_asked_after_a_refusal_keeps_the_request(code: str) -> None:
    world = World(3, models={1, 2})
    world.submit(0, RID, PROMPT)
    first = asked(world)
    refused_by(world, first.peer, code)
    then = asked(world)
    assert then.peer != first.peer
    assert (first.forward.hop_limit, then.forward.hop_limit) == (HOP_LIMIT_DEFAULT - 1, 0)


@pytest.mark.parametrize("code", ["model-not-found", "no-route"])
def test_who_has_its_link_again_and_not_its_model_yet_is_asked_now_and_then(code: str) -> None:
    """It was started anew, and others hear of that and of its model in a moment."""
    world = World(2, models={1})
    world.submit(0, RID, PROMPT)
    origin, peer = world.node(0), asked(world).peer
    origin.neighbourhood.link_down(peer, world.now)
    world.carry_out(origin, origin.forwarder.peer_lost(peer, world.now, link_only=True))
    origin.neighbourhood.link_measured(peer, 1.0, world.now)
    times = []
    for _ in range(3):
        assert not world.wire, "not at once"
        world.now = origin.forwarder.next_deadline()
        world.carry_out(origin, origin.forwarder.tick(world.now))
        assert asked(world).peer == peer
        times.append(world.now)
        refused_by(world, peer, code)
    assert times == sorted(set(times))


def test_what_is_to_stay_here_waits_for_no_link() -> None:
    world = World(2, models={1})
    origin, peer = world.node(0), world.node(1).peer
    origin.neighbourhood.link_down(peer, world.now)
    world.submit(0, RID, PROMPT, local=True)
    assert isinstance(world.ending(0, RID), Failure)


@pytest.mark.parametrize(("executor", "able"), [(1, {4}), (3, {2, 3})])
def test_an_answer_goes_on_only_at_models_of_the_kind_that_began_it(
    executor: int, able: set[int]
) -> None:
    """Who is asked may pass a text on to who has another model that is also called so."""
    world = World(5, models={1, 2, 3, 4})
    origin, peers = world.node(0), list(world.nodes)
    other = ModelCard("other", b"o" * 16, ("alias",), "", 4096, 100.0, 50.0)
    for index in (2, 3):
        card = Card(f"n{index}", (), (other,))
        origin.neighbourhood.records_changed(peers[index], (Change(CARD, 5, card.pack()),))
    for index in (2, 3, 4):
        world.busy(index, pending_prefill_tokens=1000)
    world.submit(0, RID, PROMPT, "alias")
    assert asked(world).peer == peers[1]
    accepted = Accepted(RID, peers[executor], 1 if executor == 1 else 2, 640)
    token = TokenFrame(RID, 0, ANSWER[:1], text_of(ANSWER[0]))
    world.carry_out(origin, origin.forwarder.receive(peers[1], accepted, world.now))
    world.carry_out(origin, origin.forwarder.receive(peers[1], token, world.now))
    world.kill(1)
    then = [receiver for _, receiver, message in world.log if isinstance(message, Forward)]
    assert then, "somebody is asked"
    assert {peers.index(each) for each in then} <= able


def test_what_many_refuse_is_computed_here_in_the_end() -> None:
    """Although others would have been sooner."""
    world = World(12)
    for index in range(1, 12):
        world.warm(index, TOKENS)
    world.submit(0, RID, PROMPT)
    refusals = 0
    while not world.node(0).running:
        refused_by(world, asked(world).peer, "overloaded")
        refusals += 1
    assert 1 < refusals < 11
    world.run()
    assert world.answer(0, RID) == WHOLE


def test_as_many_as_its_owner_asks_are_computed_here() -> None:
    world = World(2)
    world.busy(1, pending_prefill_tokens=1_000_000)
    for number in range(OPEN_REQUESTS_PER_PEER_MAX + 2):
        world.submit(0, number.to_bytes(16, "big"), PROMPT)
    assert len(world.node(0).running) == OPEN_REQUESTS_PER_PEER_MAX + 2


# --- What is told where nobody takes it ---------------------------------------------------------


def refused_to_guest(world: World, **changes: Any) -> Refused:
    """Node 0 brings a request to node 1, which refuses it."""
    guest, host = world.node(0), world.node(1)
    brought = forwarded(path=(guest.peer,), **changes)
    world.carry_out(host, host.forwarder.receive(guest.peer, brought, world.now))
    world.deliver()
    assert not any(node.running for node in world.nodes.values())
    [refusal] = [m for _, to, m in world.log if to == guest.peer and isinstance(m, Refused)]
    return refusal


def test_tokens_of_no_known_model_are_computed_by_none() -> None:
    refusal = refused_to_guest(World(3), tokens=(1, 2, 3), prompt=None)
    assert refusal.code == "no-route"


def test_why_a_model_is_gone_is_no_guests_business() -> None:
    world = World(2)
    lender = world.node(1)
    lender.neighbourhood.model_gone(MODEL)
    lender.neighbourhood.lost = {MODEL: "/home/ann/models/toy.gguf is gone."}
    assert "/home/ann" not in refused_to_guest(world).message


def test_a_guest_hears_of_a_bound_only_where_there_was_one() -> None:
    world = World(3, models={2})
    friend = world.node(2)
    friend.neighbourhood.models.clear()
    assert refused_to_guest(world).message.startswith("no reachable node can take a request")


def test_a_model_that_nobody_has_is_not_to_be_asked_for_through_the_mesh() -> None:
    world = World(2, models={1})
    world.submit(0, RID, PROMPT, "other", local=True)
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, ModelNotFound)
