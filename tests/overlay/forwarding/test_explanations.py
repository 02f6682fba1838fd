"""What a node can tell afterwards of the requests that it had a part in."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import InvalidRequest, LimitExceeded, RequestUnknown
from overlay.forwarding.effects import Answer, Emit, Failure
from overlay.forwarding.explanations import Ending, Explanation, Explanations
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.gossip.records import CARD, Card, ModelCard
from overlay.identity.peer_id import PeerId
from overlay.limits import EXPLAINED_CANDIDATES_MAX
from overlay.routing.cost import Estimate
from overlay.routing.decision import Decision
from overlay.wire.anti_entropy import Change
from overlay.wire.codec import decode
from overlay.wire.messages import Forward, Refused
from tests.overlay.forwarding.world import KEY, MODEL, World

RID = b"r" * 16
TOKENS = tuple(range(640))
PROMPT = " ".join(str(t) for t in TOKENS)
PEER = PeerId(b"p" * 32)


def told(world: World, index: int) -> Explanation:
    return world.node(index).forwarder.explanations.find(RID.hex())


def probes(world: World, *digests: bytes) -> None:
    """Each node's model cuts the probes in its own way, and everybody knows."""
    for index, digest in enumerate(digests):
        one = world.node(index)
        local = one.neighbourhood.models[MODEL]
        local.info = replace(local.info, probe=digest)
        card = Card(f"n{index}", (), (ModelCard(MODEL, KEY, prefill_rate=100.0, probe=digest),))
        for node in world.nodes.values():
            if node is not one:
                node.neighbourhood.records_changed(one.peer, (Change(CARD, 5, card.pack()),))


# --- The story of a request -------------------------------------------------------------------


def test_a_forwarded_request_is_explained_on_both_nodes() -> None:
    world = World(3)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    assert told(world, 0).ending is Ending.OPEN
    world.run()
    origin, executor = told(world, 0), told(world, 1)
    (decision,) = [attempt.decision for attempt in origin.attempts]
    assert (origin.asked_by, decision.choice) == (None, world.node(1).peer)
    assert {e.peer for e in decision.estimates} == set(world.nodes)
    assert decision.chosen.match_tokens == 640
    assert origin.attempts[0].summary_ages_s == {world.node(i).peer: 0.0 for i in (1, 2)}
    assert origin.actual is not None
    assert (origin.ending, origin.actual.executor) == (Ending.ANSWERED, world.node(1).peer)
    assert (origin.actual.hops, origin.actual.route) == (1, "forwarded")
    # The toy engine's first token comes one step after the request, and its 40th 39 steps later.
    assert origin.actual.ttft_ms == pytest.approx(20)
    assert origin.actual.total_ms == pytest.approx(20 * 41)
    assert executor.asked_by == world.node(0).peer
    assert executor.attempts[0].decision.choice == world.node(1).peer
    assert executor.actual is not None
    assert executor.actual.executor == world.node(1).peer
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.explanation is origin


def test_a_relay_explains_its_own_decision() -> None:
    world = World(3)
    world.warm(2, TOKENS)
    world.node(0).neighbourhood.link_down(world.node(2).peer)
    world.node(0).neighbourhood.model_gone(MODEL)
    world.submit(0, RID, PROMPT)
    world.run()
    choices = [told(world, i).attempts[-1].decision.choice for i in range(3)]
    assert choices == [world.node(i).peer for i in (1, 2, 2)]
    actuals = [told(world, i).actual for i in range(3)]
    assert [(a.executor, a.hops) for a in actuals if a] == [(world.node(2).peer, 2)] * 3


def test_every_attempt_says_what_became_of_it() -> None:
    world = World(3)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    origin = world.node(0)
    world.wire.clear()
    refused = Refused(RID, "overloaded", "busy: ask again later")
    world.carry_out(origin, origin.forwarder.receive(world.node(1).peer, refused, world.now))
    world.run()
    first, second = told(world, 0).attempts
    assert first.error == ("overloaded", "busy: ask again later")
    assert second.error is None
    assert world.node(1).peer not in {e.peer for e in second.decision.estimates}


def test_a_fail_over_names_who_went_away() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(5)
    world.kill(1)
    world.run()
    story = told(world, 0)
    assert [attempt.error for attempt in story.attempts] == [
        ("unreachable", "n2 went away in mid-answer"),
        None,
    ]
    assert story.actual is not None
    assert story.actual.route == "failed-over"


def test_a_request_that_failed_or_was_given_up_says_so() -> None:
    world = World(2, models={1})
    world.submit(0, RID, PROMPT)
    world.run(3)
    world.kill(1)
    assert told(world, 0).ending is Ending.FAILED
    assert told(world, 0).error == ("unreachable", "n2 went away in mid-answer")
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(3)
    world.carry_out(world.node(0), world.node(0).forwarder.cancel(RID, world.now))
    world.deliver()
    assert [told(world, i).ending for i in (0, 1)] == [Ending.CANCELLED] * 2


# --- Peers that tokenize unlike us ------------------------------------------------------------


def test_the_cache_of_who_tokenizes_unlike_is_not_counted_on() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    probes(world, b"a" * 16, b"b" * 16)
    world.submit(0, RID, PROMPT)
    world.run()
    (attempt,) = told(world, 0).attempts
    other = world.node(1).peer
    (estimate,) = [e for e in attempt.decision.estimates if e.peer == other]
    assert estimate.match_tokens == 0
    assert attempt.summary_ages_s == {}
    assert attempt.unlike == {other}
    assert world.node(0).neighbourhood.unlike() == [(other, MODEL)]


def test_who_tokenizes_unlike_gets_the_prompt_and_no_tokens() -> None:
    world = World(2)
    probes(world, b"a" * 16, b"b" * 16)
    origin = world.node(0)
    stats = origin.neighbourhood.models[MODEL].stats
    origin.neighbourhood.engine_stats(MODEL, replace(stats, pending_prefill_tokens=10_000))
    world.submit(0, RID, PROMPT)
    world.deliver()
    (sent,) = [message for _, _, message in world.log if isinstance(message, Forward)]
    assert (sent.tokens, sent.prompt) == (None, PROMPT)


def test_tokens_of_an_answer_never_go_to_who_tokenizes_unlike() -> None:
    world = World(3)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(5)
    probes(world, b"a" * 16, b"a" * 16, b"b" * 16)
    world.kill(1)
    world.run()
    last = told(world, 0).attempts[-1].decision
    assert [e.peer for e in last.estimates] == [world.node(0).peer]


@pytest.mark.parametrize(("ours", "theirs"), [(b"", b"b" * 16), (b"a" * 16, b""), (b"a" * 16,) * 2])
def test_who_tells_no_digest_is_trusted_as_far_as_its_key(ours: bytes, theirs: bytes) -> None:
    world = World(2)
    world.warm(1, TOKENS)
    probes(world, ours, theirs)
    world.submit(0, RID, PROMPT)
    world.deliver()
    (sent,) = [message for _, _, message in world.log if isinstance(message, Forward)]
    assert sent.tokens == TOKENS
    assert world.node(0).neighbourhood.unlike() == []


def test_another_model_of_the_same_name_is_no_mismatch() -> None:
    world = World(2)
    other = Card("n1", (), (ModelCard(MODEL, b"o" * 16, probe=b"b" * 16),))
    hood = world.node(0).neighbourhood
    probes(world, b"a" * 16)
    hood.records_changed(world.node(1).peer, (Change(CARD, 6, other.pack()),))
    assert not hood.tokenizes_unlike(world.node(1).peer, MODEL)


# --- What is kept -----------------------------------------------------------------------------


def explanation(request_id: bytes, asked_by: PeerId | None = None) -> Explanation:
    return Explanation(request_id, MODEL, asked_by, 0.0)


def test_only_the_cheapest_candidates_are_kept_and_always_ours_and_the_chosen() -> None:
    peers = [PeerId(n.to_bytes(32, "big")) for n in range(1, 101)]
    estimates = tuple(Estimate(p, p == peers[-1], n, 0, 0, 0, 0, 0, 1) for n, p in enumerate(peers))
    known = Neighbourhood(peers[-1])
    for peer in peers[:-1]:
        known.link_measured(peer, 1.0, 0.0)
    one = explanation(RID)
    told = one.decided(Decision(peers[50], estimates, False, 10), known, 0.0)
    (attempt,) = one.attempts
    assert attempt.decision == told
    kept = [e.peer for e in attempt.decision.estimates]
    assert kept == [*peers[:EXPLAINED_CANDIDATES_MAX], peers[50], peers[-1]]
    assert attempt.considered == 100


def test_a_summary_that_was_never_current_has_no_age() -> None:
    known = Neighbourhood(PeerId(b"m" * 32))
    known.link_measured(PEER, 1.0, -math.inf)
    one = explanation(RID)
    estimates = (Estimate(PEER, False, 0, 0, 0, 0, 0, 0, 1),)
    one.decided(Decision(PEER, estimates, True, 10), known, 100.0)
    known.summary_current(PEER, 95.0)
    one.decided(Decision(PEER, estimates, False, 10), known, 100.0)
    assert [attempt.summary_ages_s for attempt in one.attempts] == [{}, {PEER: 5.0}]


def test_of_an_error_only_the_words_are_kept() -> None:
    """Whoever raises it leaves a prompt of megabytes in its traceback."""
    world = World(2, models={1})
    world.submit(0, RID, PROMPT)
    origin = world.node(0)
    ((_, peer, sent),) = world.wire
    error = LimitExceeded("too long for a message")
    kept = weakref.ref(error)
    told_to_client = origin.forwarder.undeliverable(peer, decode(sent), world.now, error)
    assert told_to_client == [Emit(RID, Failure(error))]
    del error, told_to_client
    story = told(world, 0)
    cause = ("limit-exceeded", "too long for a message")
    assert (story.error, story.attempts[0].error) == (cause, cause)
    assert kept() is None


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=60), st.integers(0, 5))
def test_the_latest_of_each_kind_are_kept(asked: list[tuple[int, bool]], most: int) -> None:
    kept = Explanations(most)
    expected: dict[bool, list[bytes]] = {False: [], True: []}
    for number, by_peer in asked:
        request_id = number.to_bytes(16, "big")
        kept.keep(explanation(request_id, PEER if by_peer else None))
        if request_id in expected[by_peer]:
            expected[by_peer].remove(request_id)
        expected[by_peer].insert(0, request_id)
    own, peers = expected[False][:most], expected[True][:most]
    assert [each.request_id for each in kept] == own + peers
    if own or peers:
        assert kept.latest().request_id == (own or peers)[0]
    else:
        with pytest.raises(RequestUnknown):
            kept.latest()


def test_a_request_is_found_by_the_beginning_of_its_id() -> None:
    kept = Explanations()
    one, other, foreign = (bytes.fromhex(begin + "00" * 14) for begin in ("abcd", "abce", "12ff"))
    for request_id in (one, other):
        kept.keep(explanation(request_id))
    kept.keep(explanation(foreign, PEER))
    assert kept.find("abcd").request_id == one
    assert kept.find(other.hex()).request_id == other
    assert kept.find("1").request_id == foreign
    with pytest.raises(InvalidRequest, match="2 requests begin with ab: give more"):
        kept.find("ab")
    with pytest.raises(RequestUnknown, match="hearth explain --list"):
        kept.find("ff")


def test_of_two_with_one_id_that_of_the_own_client_is_meant() -> None:
    kept = Explanations()
    kept.keep(explanation(RID))
    kept.keep(explanation(RID, PEER))
    assert kept.find(RID.hex()).asked_by is None
