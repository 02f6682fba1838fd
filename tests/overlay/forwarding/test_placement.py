"""What a node knows of a job when it decides where it goes."""

from __future__ import annotations

import pytest

from overlay.forwarding.explanations import Explanation
from overlay.wire.messages import Refused
from tests.overlay.forwarding.world import ANSWER, World, text_of

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
    [(_, asked, _)] = world.wire
    world.wire.clear()
    origin = world.node(0)
    refused = Refused(RID, code, "no")
    world.carry_out(origin, origin.forwarder.receive(asked, refused, world.now))
    others = [peer for _, peer, _ in world.wire]
    assert len(others) == (code != "context-length-exceeded")
    assert asked not in others
