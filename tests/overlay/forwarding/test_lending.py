"""Requests of guests, on the owner's terms."""

from __future__ import annotations

from overlay.errors import Paused
from overlay.forwarding.effects import Answer, Failure
from overlay.gossip.records import CARD, Card, block_key
from overlay.prefix.chain import block_hashes
from overlay.wire.messages import Change, Refused
from tests.overlay.forwarding.world import ANSWER, KEY, SECRET, World, text_of

RID = b"r" * 16
OWN = b"o" * 16
TOKENS = tuple(range(640))
PROMPT = " ".join(str(t) for t in TOKENS)
WHOLE = "".join(text_of(t) for t in ANSWER)


def refusals(world: World) -> list[str]:
    return [message.code for _, _, message in world.log if isinstance(message, Refused)]


def test_a_paused_node_takes_no_guests_request_and_the_origin_goes_elsewhere() -> None:
    world = World(3, models={1, 2})
    world.warm(1, TOKENS)
    world.node(1).forwarder.lending.paused = True
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.served_by == world.node(2).peer
    assert refusals(world) == [Paused.code]


def test_the_owner_of_a_paused_node_is_served_here_and_by_friends() -> None:
    world = World(2)
    world.node(0).forwarder.lending.paused = True
    world.submit(0, RID, "1 2 3")
    world.run()
    world.warm(1, TOKENS)
    world.submit(0, OWN, PROMPT)
    world.run()
    assert [world.answer(0, each) for each in (RID, OWN)] == [WHOLE, WHOLE]
    ending = world.ending(0, OWN)
    assert isinstance(ending, Answer)
    assert ending.served_by == world.node(1).peer


def test_who_finds_only_paused_nodes_is_told_so() -> None:
    world = World(2, models={1})
    world.node(1).forwarder.lending.paused = True
    world.submit(0, RID, PROMPT)
    world.run()
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, Paused)
    # Later, its card has told.
    origin = world.node(0)
    told = Change(CARD, 100, Card("bea", paused=True).pack())
    origin.neighbourhood.records_changed(world.node(1).peer, (told,))
    world.submit(0, OWN, PROMPT)
    world.run()
    ending = world.ending(0, OWN)
    assert isinstance(ending, Failure)
    assert "(bea: paused)" in str(ending.error)


def test_a_guest_under_way_goes_on_to_its_end_when_a_node_pauses() -> None:
    world = World(2, models={1})
    world.submit(0, RID, PROMPT)
    world.run(5)
    world.node(1).forwarder.lending.paused = True
    world.run()
    assert world.answer(0, RID) == WHOLE
    assert refusals(world) == []


def test_what_is_handed_back_goes_on_elsewhere_from_the_next_token() -> None:
    world = World(3)
    world.warm(1, TOKENS)
    executor = world.node(1)
    world.submit(0, RID, PROMPT)
    world.submit(1, OWN, PROMPT)
    world.run(7)
    assert world.answer(0, RID) != ""
    assert executor.forwarder.open_guest_requests == 1
    executor.forwarder.lending.paused = True
    world.carry_out(executor, executor.forwarder.hand_back())
    assert executor.forwarder.open_guest_requests == 0
    assert executor.cancelled == [RID]
    assert list(executor.running) == [OWN], "the owner's own goes on"
    world.run()
    assert [world.answer(0, RID), world.answer(1, OWN)] == [WHOLE, WHOLE]
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.route == "failed-over"
    assert refusals(world) == [Paused.code]


def test_what_a_node_passed_on_may_come_back_to_it() -> None:
    """The executor hands back; the one that had passed the request on takes it itself."""
    world = World(3, models={1, 2})
    relay, executor = world.node(1), world.node(2)
    # Only the relay knows that the other is warm, and the origin thinks the relay is.
    world.warm(2, TOKENS)
    told = block_hashes(SECRET, KEY, TOKENS)
    origin = world.node(0).neighbourhood
    origin.origin_reset(executor.peer)
    origin.records_changed(
        relay.peer, tuple(Change(block_key(h), 5 + i, b"") for i, h in enumerate(told))
    )
    world.submit(0, RID, PROMPT)
    world.run(7)
    assert list(executor.running) == [RID]
    assert not relay.running
    executor.forwarder.lending.paused = True
    world.carry_out(executor, executor.forwarder.hand_back())
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.served_by == relay.peer
