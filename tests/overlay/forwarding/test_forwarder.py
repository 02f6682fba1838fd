"""A request's life: routed, forwarded, streamed, cancelled, failed over."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine import (
    Chunk,
    EngineStats,
    Failed,
    Finished,
    FinishReason,
    Priority,
    Sampling,
    TokenLogprob,
)
from models.engine import Message as Turn
from overlay.errors import (
    ContextLengthExceeded,
    EngineFailed,
    HearthError,
    InvalidRequest,
    LimitExceeded,
    Malformed,
    ModelNotFound,
    NoRoute,
    Overloaded,
    RemoteProtocolError,
    TimedOut,
    Unreachable,
)
from overlay.forwarding import stream
from overlay.forwarding.effects import (
    Answer,
    CancelGeneration,
    Effect,
    Failure,
    ForwardingMessage,
    Generate,
    Noticed,
    Remember,
    Send,
    Tokenize,
    Weighed,
)
from overlay.forwarding.job import FRAME_CHARS
from overlay.gossip.records import CARD, Card, ModelCard
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    ACCEPT_S,
    BAN_S,
    CANDIDATES_PER_MESSAGE,
    FORWARD_BYTES_PER_S,
    GRAMMAR_CHARS_MAX,
    HOP_LIMIT_DEFAULT,
    HOP_LIMIT_MAX,
    NAME_CHARS_MAX,
    OPEN_REQUESTS_PER_PEER_MAX,
    PASSED_ON_BURST,
    PASSED_ON_OPEN_MAX,
    PASSED_ON_PER_S,
    PEER_MESSAGES_BURST,
    PROMPT_MESSAGES_MAX,
    REQUEST_DEADLINE_S,
    STREAM_STALL_S,
    STREAM_WINDOW_FRAMES,
    TOKEN_CHARS_MAX,
    WAITING_CHARS_MAX,
)
from overlay.routing.lateness import LATE_ANSWERS_MIN
from overlay.wire.anti_entropy import Change
from overlay.wire.codec import decode, encode
from overlay.wire.messages import (
    Accepted,
    Begun,
    Cancel,
    Completed,
    Forward,
    Message,
    Refused,
    StreamAck,
    TokenFrame,
)
from overlay.wire.weight import weight
from tests.overlay.forwarding.world import ANSWER, KEY, MODEL, World, forwarded, logprob_of, text_of

RID = b"r" * 16
OTHER = b"o" * 16
TOKENS = tuple(range(640))
PROMPT = " ".join(str(t) for t in TOKENS)
WHOLE = "".join(text_of(t) for t in ANSWER)


def forward(world: World, **changes: Any) -> Forward:
    return forwarded(**{"request_id": RID, "path": (world.node(0).peer,), **changes})


def test_a_cold_mesh_computes_at_home() -> None:
    world = World(3)
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert (ending.route, ending.hops, ending.served_by) == ("local", 0, world.node(0).peer)
    assert not world.log


def test_a_warm_peer_answers_over_one_hop() -> None:
    world = World(3)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert (ending.route, ending.hops, ending.served_by) == ("forwarded", 1, world.node(1).peer)
    assert ending.decision.chosen.match_tokens == 640
    frames = [m for _, _, m in world.log if isinstance(m, TokenFrame)]
    assert [f.seq for f in frames] == list(range(len(ANSWER)))


def test_a_warm_but_busy_peer_is_not_waited_for() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.busy(1, pending_prefill_tokens=2000)
    world.submit(0, RID, PROMPT)
    world.run()
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.route == "local"


def test_a_warm_but_distant_peer_is_left_alone() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    far = world.node(1).peer
    world.node(0).neighbourhood.link_measured(far, 8000.0, world.now)
    world.submit(0, RID, PROMPT)
    world.run()
    assert not world.log
    assert world.answer(0, RID) == WHOLE


def test_local_route_keeps_the_prompt_at_home() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT, local=True)
    world.run()
    assert not world.log
    assert world.answer(0, RID) == WHOLE


def test_a_node_without_the_model_asks_a_friend_with_the_prompt_itself() -> None:
    world = World(2, models={1})
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.answer(0, RID) == WHOLE
    (sent,) = [m for _, _, m in world.log if isinstance(m, Forward)]
    assert sent.tokens is None
    assert sent.prompt == PROMPT


@pytest.mark.parametrize("after", [1, 7, len(ANSWER) - 1])
def test_when_the_executor_dies_the_answer_goes_on_from_the_next_token(after: int) -> None:
    world = World(3)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(after)
    assert world.answer(0, RID) == "".join(text_of(t) for t in ANSWER[:after])
    world.kill(1)
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.route == "failed-over"


def test_an_origin_without_the_model_fails_over_too() -> None:
    world = World(3, models={1, 2})
    world.submit(0, RID, PROMPT)
    world.run(5)
    executor = next(i for i in (1, 2) if world.node(i).running)
    world.kill(executor)
    world.run()
    assert world.answer(0, RID) == WHOLE


def test_where_accepted_was_lost_the_answer_comes_from_elsewhere() -> None:
    """With a link that broke, say, while there was another one."""
    world = World(3, models={1, 2})
    world.submit(0, RID, PROMPT)
    [(_, asked, _)] = world.wire
    world.lose = lambda sender, _, message: sender == asked and isinstance(message, Accepted)
    world.run()
    assert world.answer(0, RID) == WHOLE
    assert [node.peer for node in world.nodes.values() if RID in node.cancelled] == [asked]


def test_no_peer_is_asked_for_more_at_one_time_than_it_takes() -> None:
    world = World(3, models={1, 2})
    world.warm(1, TOKENS)
    ids = [bytes([number]) * 16 for number in range(2 * OPEN_REQUESTS_PER_PEER_MAX)]
    for request_id in ids:
        world.submit(0, request_id, PROMPT)
        world.deliver()
    origin = world.node(0).peer
    asked = Counter(
        receiver
        for sender, receiver, message in world.log
        if sender == origin and isinstance(message, Forward)
    )
    assert list(asked.values()) == [OPEN_REQUESTS_PER_PEER_MAX] * 2
    assert not any(isinstance(message, Refused) for _, _, message in world.log)
    world.run()
    assert all(world.answer(0, request_id) == WHOLE for request_id in ids)


@pytest.mark.parametrize("after", [0, 5])
def test_who_is_left_alone_is_asked_once_the_others_have_failed(after: int) -> None:
    world = World(3, models={1, 2})
    origin = world.node(0).forwarder
    origin.punctuality.left_alone.fell_silent(world.node(2).peer, world.now)
    world.submit(0, RID, PROMPT)
    world.run(after)
    assert list(world.node(1).running) == [RID]
    (sent,) = [m for _, _, m in world.log if isinstance(m, Forward)]
    assert sent.hop_limit == 0, "it is not to be passed on to the other"
    world.kill(1)
    world.run()
    assert world.answer(0, RID) == WHOLE


@pytest.mark.parametrize("after", [0, 5])
def test_a_model_that_was_loaded_meanwhile_takes_over_from_a_peer_that_dies(after: int) -> None:
    world = World(2, models={1})
    world.submit(0, RID, PROMPT)
    world.run(after)
    world.load(0)
    world.kill(1)
    world.run()
    assert world.answer(0, RID) == WHOLE
    assert world.node(0).forwarder.open_requests == 0


def test_a_prompt_is_tokenized_anew_for_another_model_that_has_its_name_meanwhile() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT, "alias")
    world.deliver()
    node = world.node(0)
    node.neighbourhood.model_gone(MODEL)
    world.load(0, "other", b"o" * 16)
    with patch.object(node.forwarder, "tokenized", wraps=node.forwarder.tokenized) as told:
        world.kill(1)
    told.assert_called_once()
    assert list(node.running) == [RID]


@pytest.mark.parametrize("third", [False, True])
def test_an_answer_goes_on_only_with_a_model_that_its_tokens_are_of(third: bool) -> None:
    """Two models share an alias; what they answer in means nothing to each other."""
    world = World(3, models={0})
    origin, theirs = world.node(0), b"o" * 16
    for index in (1, 2) if third else (1,):
        world.load(index, "other", theirs)
        card = ModelCard("other", theirs, ("alias",), "", 4096, 100.0, 50.0)
        changes = (Change(CARD, 3, Card("n", (), (card,)).pack()),)
        origin.neighbourhood.records_changed(world.node(index).peer, changes)
    origin.neighbourhood.engine_stats(MODEL, EngineStats(queued=9, pending_prefill_tokens=100_000))
    world.submit(0, RID, PROMPT, "alias")
    world.run(5)
    first = next(index for index in (1, 2) if world.node(index).running)
    world.kill(first)
    world.run()
    assert not origin.running
    assert not origin.remembered
    if third:
        assert world.answer(0, RID) == WHOLE
        sent = [m for _, _, m in world.log if isinstance(m, Forward)][-1]
        assert (sent.prompt, sent.tokens, sent.model_key) == (PROMPT, None, theirs)
        assert sent.generated == ANSWER[:5]
    else:
        assert isinstance(world.ending(0, RID), Failure)


def test_a_model_that_fails_at_tokenizing_leaves_the_request_to_others() -> None:
    world = World(2)
    node = world.node(0)
    node.events[RID] = []
    [wanted] = node.forwarder.submit(RID, MODEL, PROMPT, Sampling(), world.now)
    assert isinstance(wanted, Tokenize)
    gone = EngineFailed("the model is gone")
    world.carry_out(node, node.forwarder.tokenized(RID, gone, world.now))
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.served_by == world.node(1).peer


def test_a_prompt_that_no_model_can_read_is_refused() -> None:
    world = World(2)
    node = world.node(0)
    node.events[RID] = []
    node.forwarder.submit(RID, MODEL, PROMPT, Sampling(), world.now)
    unreadable = InvalidRequest("The template takes no such conversation.")
    world.carry_out(node, node.forwarder.tokenized(RID, unreadable, world.now))
    assert world.ending(0, RID) == Failure(unreadable)
    assert not world.wire


def test_what_the_engine_here_calls_invalid_is_asked_of_nobody_else() -> None:
    world = World(2)
    world.warm(0, TOKENS)
    world.submit(0, RID, PROMPT)
    node = world.node(0)
    assert list(node.running) == [RID]
    failed = Failed(RID, InvalidRequest.code, "the grammar is broken")
    world.carry_out(node, node.forwarder.on_engine(failed, world.now))
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, InvalidRequest)
    assert not world.wire


@pytest.mark.parametrize("error", [InvalidRequest("no"), ContextLengthExceeded("no")])
def test_one_peer_cannot_have_a_request_refused_by_all(error: HearthError) -> None:
    """It may draw all requests by what it says of itself, also of its context."""
    world = World(3, models={1, 2})
    origin, liar = world.node(0), world.node(1)
    world.introduce(origin, liar, context_length=1 << 40)
    origin.neighbourhood.link_measured(world.node(2).peer, 200.0, world.now)
    world.lose = lambda sender, receiver, _: liar.peer in (sender, receiver)
    world.submit(0, RID, PROMPT)
    world.deliver()
    refused = Refused(RID, error.code, "no")
    world.carry_out(origin, origin.forwarder.receive(liar.peer, refused, world.now))
    world.run()
    assert world.answer(0, RID) == WHOLE


@pytest.mark.parametrize("code", [InvalidRequest.code, Overloaded.code])
def test_a_request_that_is_invalid_is_so_if_nobody_says_otherwise(code: str) -> None:
    world = World(4, models={1, 2, 3})
    world.lose = lambda *_: True
    origin = world.node(0)
    world.submit(0, RID, PROMPT)
    for each in (InvalidRequest.code, code):
        [(_, asked, _)] = world.wire
        world.deliver()
        refused = Refused(RID, each, "The schema is none.")
        world.carry_out(origin, origin.forwarder.receive(asked, refused, world.now))
    if code == Overloaded.code:
        [(_, asked, _)] = world.wire
        refused = Refused(RID, code, "The schema is none.")
        world.carry_out(origin, origin.forwarder.receive(asked, refused, world.now))
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, InvalidRequest)


@pytest.mark.parametrize("grammar", ["", 'root ::= "a" root "b" | "a" root "c" | "a"'])
def test_a_grammar_that_ended_two_engines_ends_no_third(grammar: str) -> None:
    world = World(4, models={1, 2, 3})
    world.lose = lambda *_: True
    origin = world.node(0)
    world.sampling = Sampling(grammar=grammar)
    world.submit(0, RID, PROMPT)
    for _ in range(2):
        [(_, asked, _)] = world.wire
        world.deliver()
        refused = Refused(RID, EngineFailed.code, "the engine died")
        world.carry_out(origin, origin.forwarder.receive(asked, refused, world.now))
    assert len(world.wire) == (not grammar)
    assert origin.forwarder.open_requests == (not grammar)


def test_when_nobody_is_left_the_client_hears_why() -> None:
    world = World(2, models={1})
    world.submit(0, RID, PROMPT)
    world.run(3)
    world.kill(1)
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, Unreachable)


@pytest.mark.parametrize("name", [MODEL, "alias", "Alias"])
def test_a_model_that_only_others_serve_is_there_by_any_of_its_names(name: str) -> None:
    world = World(2, models={1})
    world.submit(0, RID, PROMPT, model=name, local=True)
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, NoRoute)
    told = f"this node does not serve {name!r}: start it with --model, or ask the mesh"
    assert str(ending.error) == told


def test_whom_a_peer_knows_of_is_no_reason_for_a_client() -> None:
    """A peer that was started anew has no model yet, and knows of nobody."""
    world = World(2, models={1})
    world.node(1).neighbourhood.model_gone(MODEL)
    world.submit(0, RID, PROMPT)
    world.run()
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert str(ending.error) == f"no reachable node can take a request for {MODEL!r} now"
    [attempt] = world.node(0).forwarder.explanations.find(RID.hex()).attempts
    assert attempt.error is not None
    assert "no model is served here or by a reachable peer" in attempt.error.message


def test_a_lost_frame_is_noticed_and_made_good() -> None:
    world = World(3)
    world.warm(1, TOKENS)
    world.lose = lambda _s, _r, m: isinstance(m, TokenFrame) and m.seq == 5 and len(m.tokens) > 0
    world.submit(0, RID, PROMPT)
    world.run(8)
    world.lose = lambda *_: False
    world.run()
    assert world.answer(0, RID) == WHOLE
    assert RID in world.node(1).cancelled


@settings(max_examples=40)
@given(st.sets(st.integers(0, 39), max_size=3), st.sets(st.integers(0, 39), max_size=3))
def test_whatever_frames_are_lost_or_doubled_no_token_is(lost: set[int], doubled: set[int]) -> None:
    world = World(4)
    world.warm(1, TOKENS)
    world.warm(2, TOKENS)
    dropped: set[int] = set()

    def lose(sender: object, receiver: object, message: object) -> bool:
        if not isinstance(message, TokenFrame):
            return False
        if message.seq in lost - dropped:
            dropped.add(message.seq)
            return True
        return False

    world.lose = lose
    original = world.deliver

    def deliver() -> None:
        for sender, receiver, data in list(world.wire):
            if data[1] == TokenFrame.KIND and doubled:
                world.wire.append((sender, receiver, data))
        original()

    world.deliver = deliver  # type: ignore[method-assign]
    world.submit(0, RID, PROMPT)
    world.run(200)
    shown = world.answer(0, RID)
    assert WHOLE.startswith(shown)
    ending = world.ending(0, RID)
    if isinstance(ending, Answer):
        assert shown == WHOLE


def test_log_probabilities_come_along_and_survive_a_fail_over() -> None:
    world = World(4, models={1, 2})
    world.sampling = Sampling(logprobs=2)
    world.submit(0, RID, PROMPT)
    world.run(5)
    executor = next(i for i in (1, 2) if world.node(i).running)
    world.kill(executor)
    world.run()
    assert world.answer(0, RID) == WHOLE
    assert world.logprobs(0, RID) == [logprob_of(token, 2) for token in ANSWER]


@pytest.mark.parametrize(
    ("asked", "logprobs", "error"),
    [
        (None, (logprob_of(1, 0),), Malformed),
        (0, (), Malformed),
        (0, (logprob_of(1, 0),) * 2, Malformed),
        (20, (logprob_of(1, 21),), LimitExceeded),
    ],
)
def test_log_probabilities_that_nobody_asked_for_are_a_lie(
    asked: int | None, logprobs: tuple[TokenLogprob, ...], error: type[Exception]
) -> None:
    world = World(2, models={1})
    world.sampling = Sampling(logprobs=asked)
    world.submit(0, RID, PROMPT)
    world.deliver()
    frame = TokenFrame(RID, 0, (1,), "a", logprobs)
    with pytest.raises(error):
        world.node(0).forwarder.receive(world.node(1).peer, frame, world.now)


def test_a_refusal_goes_to_the_next_best() -> None:
    world = World(3)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    origin = world.node(0)
    refused = Refused(RID, "overloaded", "busy")
    world.wire.clear()
    world.carry_out(origin, origin.forwarder.receive(world.node(1).peer, refused, world.now))
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.route == "local"


@pytest.mark.parametrize("short", [0, 1])
def test_a_prompt_goes_where_it_fits_into_the_context(short: int) -> None:
    world = World(2)
    world.warm(short, TOKENS)
    world.shorten(short, len(TOKENS))
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.served_by == world.node(1 - short).peer
    assert ending.explanation.attempts[0].considered == 1


def test_a_prompt_that_fits_nowhere_is_refused_at_once() -> None:
    world = World(3)
    for index, context in enumerate((300, 640, 200)):
        world.shorten(index, context)
    world.submit(0, RID, PROMPT)
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, ContextLengthExceeded)
    assert "has 640 tokens; the model's context holds 640" in str(ending.error)
    assert not world.wire


def test_who_cannot_count_a_prompts_tokens_asks_longer_contexts_after_shorter_ones() -> None:
    world = World(5, models={1, 2, 3, 4})
    for index, context in enumerate((200, 300, 300, 4096), 1):
        world.shorten(index, context)
    world.busy(4, pending_prefill_tokens=2000)
    origin = world.node(0)
    for index in (1, 2, 3):
        world.node(index).neighbourhood.link_down(world.node(4).peer)
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.answer(0, RID) == WHOLE
    asked = [r for s, r, m in world.log if s == origin.peer and isinstance(m, Forward)]
    assert asked[-1] == world.node(4).peer
    assert not {world.node(2).peer, world.node(3).peer} <= {*asked}, "they are alike"


def test_hanging_up_cancels_everywhere() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(3)
    origin = world.node(0)
    world.carry_out(origin, origin.forwarder.cancel(RID, world.now))
    world.deliver()
    assert world.node(1).cancelled == [RID]
    assert origin.forwarder.open_requests == world.node(1).forwarder.open_requests == 0


def test_who_tokenized_a_prompt_remembers_its_answer_wherever_it_was_generated() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.node(0).remembered == [Remember(MODEL, TOKENS, ANSWER)]
    assert not world.node(1).remembered, "it never saw the conversation"
    world = World(2, models={1})
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.node(1).remembered == [Remember(MODEL, TOKENS, ANSWER)]
    assert not world.node(0).remembered


def test_the_whole_answer_is_remembered_after_a_fail_over() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(10)
    world.kill(1)
    world.run()
    assert world.node(0).remembered == [Remember(MODEL, TOKENS, ANSWER)]


def test_what_was_read_of_a_broken_off_answer_is_remembered() -> None:
    world = World(1)
    world.submit(0, RID, PROMPT)
    world.run(10)
    world.carry_out(world.node(0), world.node(0).forwarder.cancel(RID, world.now))
    assert world.node(0).remembered == [Remember(MODEL, TOKENS, ANSWER[:10])]


def test_an_executor_stops_when_the_origin_is_gone() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(3)
    world.kill(0)
    assert world.node(1).cancelled == [RID]


def test_a_guest_is_whoever_the_link_authenticated() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    peer, head = world.node(0).peer, PeerId(bytes([9]) * 32)
    world.node(1).neighbourhood.introduced(peer, "ann", (head, peer), world.now)
    world.submit(0, RID, PROMPT)
    world.deliver()
    guest = world.node(1).running[RID]
    assert guest.priority is Priority.GUEST
    assert guest.client == (head, peer, peer), "beside those whom it let in"
    world.submit(1, OTHER, PROMPT)
    owner = world.node(1).running[OTHER]
    assert (owner.priority, owner.client) == (Priority.OWNER, ())


def test_a_silent_peer_is_given_up() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.lose = lambda *_: True
    world.submit(0, RID, PROMPT)
    world.deliver()
    origin = world.node(0)
    world.now = origin.forwarder.next_deadline()
    world.carry_out(origin, origin.forwarder.tick(world.now))
    world.run()
    assert world.answer(0, RID) == WHOLE


def test_a_long_prompt_may_take_its_time_on_its_way() -> None:
    """Over a slow uplink, which is no fault of whoever is to answer."""
    world = World(2, models={1})
    world.lose = lambda *_: True
    world.submit(0, RID, "x" * int(5 * ACCEPT_S * FORWARD_BYTES_PER_S))
    origin, hops = world.node(0).forwarder, HOP_LIMIT_DEFAULT
    assert origin.next_deadline() == pytest.approx(world.now + 5 * ACCEPT_S * hops, abs=0.1)


def keeps_quiet_after(*kinds: type) -> Callable[[PeerId, PeerId, Message], bool]:
    """A peer's answers get lost, but for the first of each of these kinds."""
    said: set[type] = set()

    def lose(sender: PeerId, receiver: PeerId, message: Message) -> bool:
        if isinstance(message, (Forward, Cancel, StreamAck)):
            return False
        said_before = type(message) in said
        said.add(type(message))
        return said_before or not isinstance(message, kinds)

    return lose


def wait_in_vain(world: World, index: int) -> float:
    """Let time pass until the node does something; returns the seconds that takes."""
    node, begun = world.node(index), world.now
    while not (effects := node.forwarder.tick(world.now)):
        world.now = node.forwarder.next_deadline()
    world.carry_out(node, effects)
    world.deliver()
    return world.now - begun


def asking_a_peer_that_keeps_quiet_after(*kinds: type) -> World:
    """Node 0 has asked node 1 and heard all that is to be heard of it."""
    world = World(2)
    world.warm(1, TOKENS)
    world.lose = keeps_quiet_after(*kinds)
    world.submit(0, RID, PROMPT)
    world.deliver()
    return world


@pytest.mark.parametrize(
    "kinds", [(), (Accepted,), (Accepted, Begun), (Accepted, Begun, TokenFrame)]
)
def test_a_peer_that_draws_requests_and_answers_none_does_so_once(kinds: tuple[type, ...]) -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.lose = keeps_quiet_after(*kinds)
    world.submit(0, RID, PROMPT)
    world.run(2)
    assert wait_in_vain(world, 0) <= STREAM_STALL_S
    world.run()
    assert world.answer(0, RID) == WHOLE
    world.submit(0, OTHER, PROMPT)
    world.run()
    ending = world.ending(0, OTHER)
    assert isinstance(ending, Answer)
    assert ending.route == "local"


@pytest.mark.parametrize(
    ("first_s", "each_s", "hangs_up", "goes_on"),
    [
        (0.0, 0.0, False, True),
        (20.0, 0.0, False, False),
        (0.0, 5.0, False, False),
        (20.0, 0.0, True, False),
        (2.0, 0.0, True, True),
    ],
    ids=["in time", "late", "in drops", "late for a client", "an impatient client"],
)
def test_who_draws_requests_and_answers_far_too_late_is_expected_to_be_late(
    first_s: float, each_s: float, hangs_up: bool, goes_on: bool
) -> None:
    world = World(2)
    world.warm(1, TOKENS)
    origin = world.node(0)
    for number in range(LATE_ANSWERS_MIN):
        request_id = bytes([number]) * 16
        world.submit(0, request_id, PROMPT)
        world.deliver()
        assert request_id in world.node(1).running
        world.now += first_s
        if hangs_up:
            world.carry_out(origin, origin.forwarder.cancel(request_id, world.now))
        for _ in range(len(ANSWER) + 1):
            world.now += each_s
            world.run(1)
        origin.neighbourhood.link_measured(world.node(1).peer, 1.0, world.now)
    world.submit(0, RID, PROMPT)
    world.deliver()
    assert (RID in world.node(1).running) == goes_on


#: What a peer that took a request for granted may say of it in place of an answer.
LET_DOWNS: dict[str, ForwardingMessage] = {
    "refuses": Refused(RID, "overloaded", "later"),
    "lies": TokenFrame(RID, 5, (1,), "out of order"),
}
let_downs = pytest.mark.parametrize("said", LET_DOWNS.values(), ids=LET_DOWNS)
when_accepted_or_not = pytest.mark.parametrize("kinds", [(), (Accepted,)])


def hear(world: World, index: int, peer: PeerId, message: ForwardingMessage) -> None:
    """The node hears it of the peer."""
    node = world.node(index)
    world.carry_out(node, node.forwarder.receive(peer, message, world.now))


@let_downs
@when_accepted_or_not
def test_who_holds_a_request_for_long_and_lets_it_down_is_left_alone(
    kinds: tuple[type, ...], said: ForwardingMessage
) -> None:
    """As who falls silent is: it would have been given up a moment later."""
    world = asking_a_peer_that_keeps_quiet_after(*kinds)
    origin, liar = world.node(0).forwarder, world.node(1).peer
    world.now = origin.next_deadline() - 0.5
    hear(world, 0, liar, said)
    world.run()
    assert world.answer(0, RID) == WHOLE, "it went on elsewhere"
    assert origin.punctuality.left_alone.has(liar, world.now)


@let_downs
@when_accepted_or_not
def test_who_lets_a_request_down_at_once_may_be_asked_again(
    kinds: tuple[type, ...], said: ForwardingMessage
) -> None:
    world = asking_a_peer_that_keeps_quiet_after(*kinds)
    origin, peer = world.node(0).forwarder, world.node(1).peer
    hear(world, 0, peer, said)
    assert not origin.punctuality.left_alone.has(peer, world.now)


def test_a_refusal_after_a_long_prompts_long_way_is_not_held_against_a_peer() -> None:
    world = World(2, models={1})
    world.lose = lambda *_: True
    world.submit(0, RID, "x" * int(5 * ACCEPT_S * FORWARD_BYTES_PER_S))
    origin, peer = world.node(0).forwarder, world.node(1).peer
    world.now += 4 * ACCEPT_S
    hear(world, 0, peer, LET_DOWNS["refuses"])
    assert not origin.punctuality.left_alone.has(peer, world.now)


def test_who_goes_on_with_anothers_answer_has_its_own_time_to_begin() -> None:
    """One gives a token and then a lie, and another one holds what then comes to it."""
    world = World(3)
    world.warm(1, TOKENS)
    world.warm(2, TOKENS)
    origin = world.node(0)
    world.submit(0, RID, PROMPT)
    world.run(1)
    [first] = [node for node in world.nodes.values() if RID in node.running]
    world.lose = keeps_quiet_after(Accepted)
    hear(world, 0, first.peer, LET_DOWNS["lies"])
    world.deliver()
    [second] = [node for node in world.nodes.values() if RID in node.running]
    assert second not in (origin, first)
    world.now += STREAM_STALL_S - 1
    hear(world, 0, second.peer, LET_DOWNS["refuses"])
    world.run()
    assert world.answer(0, RID) == WHOLE
    left_alone = origin.forwarder.punctuality.left_alone
    assert left_alone.has(second.peer, world.now)
    assert not left_alone.has(first.peer, world.now)


@pytest.mark.parametrize("breaks", [False, True], ids=["behind it", "its network"])
def test_who_is_let_down_by_others_is_expected_to_be_late_if_that_is_the_rule(
    breaks: bool,
) -> None:
    """Or says so: it passes requests on and refuses them after long, or loses its links then."""
    world = World(3)
    world.warm(1, TOKENS)
    origin, liar, other = (world.node(index) for index in range(3))
    world.lose = lambda sender, *_: sender == liar.peer
    for number in range(LATE_ANSWERS_MIN):
        request_id = bytes([number]) * 16
        world.submit(0, request_id, PROMPT)
        world.deliver()
        assert request_id in liar.running
        executor = liar if breaks else other
        hear(world, 0, liar.peer, Accepted(request_id, executor.peer, 2, len(TOKENS)))
        world.now += STREAM_STALL_S - 1
        if breaks:
            lost = origin.forwarder.peer_lost(liar.peer, world.now, link_only=True)
            world.carry_out(origin, lost)
        else:
            hear(world, 0, liar.peer, Refused(request_id, "overloaded", "later"))
        # It may be asked again at once.
        hear(world, 0, liar.peer, Refused(request_id, "overloaded", "later"))
        world.run()
        assert world.answer(0, request_id) == WHOLE
        assert not origin.forwarder.punctuality.left_alone.has(liar.peer, world.now)
        world.now += 4 * BAN_S  # Nor is it doubted any more.
        origin.neighbourhood.link_measured(liar.peer, 1.0, world.now)
    world.submit(0, RID, PROMPT)
    assert RID not in liar.running
    assert RID in {**origin.running, **other.running}


@pytest.mark.parametrize("serves", [False, True], ids=["asks only", "serves the model, too"])
def test_a_crowd_that_draws_requests_costs_no_more_than_one_that_does(serves: bool) -> None:
    """One member can let in any number, which are silent one after the other."""
    crowd = range(2, 30)
    world = World(30, models={*([0] if serves else []), 1, *crowd})
    origin = world.node(0)
    liars = {world.node(index).peer for index in crowd}
    for liar in liars:
        origin.neighbourhood.link_down(liar)
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.answer(0, RID) == WHOLE, "the honest one has answered before"
    for index in crowd:
        world.warm(index, TOKENS)
        origin.neighbourhood.link_measured(world.node(index).peer, 0.1, world.now)
    world.lose = lambda sender, *_: sender in liars
    world.submit(0, OTHER, PROMPT)
    world.deliver()
    assert any(OTHER in world.nodes[liar].running for liar in liars)
    assert wait_in_vain(world, 0) < 3 * ACCEPT_S
    world.run()
    assert world.answer(0, OTHER) == WHOLE
    third = b"t" * 16
    world.submit(0, third, PROMPT)
    world.run()
    assert world.answer(0, third) == WHOLE


@pytest.mark.parametrize("paused", [False, True])
def test_however_many_names_a_crowd_makes_up_an_error_tells_of_few(paused: bool) -> None:
    """It is sent to whoever asked, and kept to be explained."""
    world = World(2)
    hood = world.node(0).neighbourhood
    for number in range(300):
        liar = PeerId(number.to_bytes(32, "big"))
        names = [f"{number}-{each}".ljust(NAME_CHARS_MAX, "x") for each in range(16)]
        models = tuple(ModelCard(name, KEY) for name in names)
        card = Card(names[0], (), () if paused else models, paused)
        hood.records_changed(liar, [Change(CARD, 1, card.pack())])
        hood.link_measured(liar, 1.0, world.now)
    world.submit(0, OTHER, PROMPT, "a typo")
    world.run()
    ending = world.ending(0, OTHER)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, ModelNotFound)
    assert "more" in str(ending.error)
    assert len(str(ending.error)) < 64 * NAME_CHARS_MAX


@pytest.mark.parametrize("tokens", [0, 3])
def test_an_answer_that_a_peer_cancels_goes_on_elsewhere(tokens: int) -> None:
    """Nobody asked it to: it would have the client's request fail."""
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(tokens)
    liar = world.node(1).peer
    world.lose = lambda sender, *_: sender == liar
    cancelled = Completed(RID, tokens, "cancelled", 640, 0, tokens, 0.0, 0.0, 0.0)
    origin = world.node(0)
    world.carry_out(origin, origin.forwarder.receive(liar, cancelled, world.now))
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert (ending.served_by, ending.route) == (origin.peer, "failed-over")


def test_after_a_sleep_of_its_own_a_node_reads_what_was_said_meanwhile() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(3)
    world.step_engines()
    origin, peer = world.node(0).forwarder, world.node(1).peer
    world.now += STREAM_STALL_S + 300
    assert origin.tick(world.now) == []
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert (ending.served_by, ending.route) == (peer, "forwarded")


def test_after_a_sleep_of_its_own_a_node_does_not_wait_for_ever() -> None:
    world = asking_a_peer_that_keeps_quiet_after(Accepted)
    world.now += STREAM_STALL_S + 300
    assert 0 < wait_in_vain(world, 0) <= 2 * ACCEPT_S
    world.run()
    assert world.answer(0, RID) == WHOLE, "it went on elsewhere"


def test_saying_the_same_again_and_again_wins_a_silent_peer_no_time() -> None:
    world = asking_a_peer_that_keeps_quiet_after(Accepted, Begun)
    origin, liar = world.node(0), world.node(1).peer
    world.now += STREAM_STALL_S - 1
    for message in (Accepted(RID, liar, 1, 640), Begun(RID, 640, 0.0)):
        assert origin.forwarder.receive(liar, message, world.now) == []
    assert wait_in_vain(world, 0) <= 1


def test_frames_without_a_token_win_a_silent_peer_no_time() -> None:
    world = asking_a_peer_that_keeps_quiet_after(Accepted, Begun)
    world.now += STREAM_STALL_S - 1
    liar = world.node(1).peer
    assert world.node(0).forwarder.receive(liar, TokenFrame(RID, 0, (), ""), world.now) == []
    assert wait_in_vain(world, 0) <= 1


def test_a_lie_in_place_of_an_answer_is_no_new_beginning_for_a_silent_peer() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    origin, liar = world.node(0), world.node(1).peer
    origin.forwarder.punctuality.left_alone.fell_silent(liar, world.now)
    world.now += BAN_S
    world.lose = keeps_quiet_after(Accepted)
    world.submit(0, RID, PROMPT)
    world.deliver()
    lie = Completed(RID, 0, "no reason", 640, 0, 0, 0.0, 0.0, 0.0)
    with pytest.raises(Malformed):
        origin.forwarder.receive(liar, lie, world.now)
    wait_in_vain(world, 0)
    assert origin.forwarder.punctuality.left_alone.has(liar, world.now + BAN_S)


def test_an_answer_that_breaks_off_is_given_up_even_if_nobody_else_could_go_on() -> None:
    world = World(2, models={1})
    world.lose = keeps_quiet_after(Accepted, Begun, TokenFrame)
    world.submit(0, RID, PROMPT)
    world.run(2)
    assert wait_in_vain(world, 0) <= STREAM_STALL_S
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, TimedOut)


def test_what_is_too_long_to_be_sent_to_a_peer_is_answered_elsewhere() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    origin = world.node(0)
    world.submit(0, RID, PROMPT)
    _, warm, data = world.wire.pop()
    message = decode(data)
    too_long = LimitExceeded("too long for a message")
    world.carry_out(origin, origin.forwarder.undeliverable(warm, message, world.now, too_long))
    world.run()
    assert world.answer(0, RID) == WHOLE
    [attempt, _] = origin.forwarder.explanations.find(RID.hex()).attempts
    assert attempt.error == ("limit-exceeded", "too long for a message")


def test_who_cannot_be_told_of_its_request_has_nothing_computed_for_it() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(3)
    executor, origin = world.node(1), world.node(0).peer
    assert list(executor.running) == [RID]
    frame = TokenFrame(RID, 0, (1,), "x")
    effects = executor.forwarder.undeliverable(origin, frame, world.now)
    assert effects == [CancelGeneration(MODEL, RID)]
    assert executor.forwarder.open_requests == 0


@pytest.mark.parametrize("kinds", [(Accepted,), (Accepted, Begun)])
def test_where_nobody_else_could_take_it_a_request_waits_for_its_first_token(
    kinds: tuple[type, ...],
) -> None:
    world = World(2, models={1})
    world.lose = keeps_quiet_after(*kinds)
    world.submit(0, RID, PROMPT)
    world.run(1)
    assert wait_in_vain(world, 0) == pytest.approx(REQUEST_DEADLINE_S, abs=1)
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert "no whole answer" in str(ending.error)


def test_guests_leave_places_at_a_friend_to_the_node_that_passes_them_on() -> None:
    """They are all held against this node there, and its owner has no model here."""
    world = World(3, models={2})
    guest, relay, friend = (world.node(index) for index in range(3))
    ids = [bytes([number]) * 16 for number in range(OPEN_REQUESTS_PER_PEER_MAX)]
    for request_id in ids:
        asked = forward(world, request_id=request_id)
        world.carry_out(relay, relay.forwarder.receive(guest.peer, asked, world.now))
        world.deliver()
    assert [*friend.running] == ids[:PASSED_ON_OPEN_MAX]
    refusals = [m for _, to, m in world.log if to == guest.peer and isinstance(m, Refused)]
    assert {refused.code for refused in refusals} == {Overloaded.code}
    assert len(refusals) == OPEN_REQUESTS_PER_PEER_MAX - PASSED_ON_OPEN_MAX
    for number in range(PASSED_ON_OPEN_MAX, OPEN_REQUESTS_PER_PEER_MAX):
        world.submit(1, bytes([number + 100]) * 16, PROMPT)
        world.deliver()
    assert len(friend.running) == OPEN_REQUESTS_PER_PEER_MAX
    assert not any(isinstance(m, Refused) and to == relay.peer for _, to, m in world.log)


def test_who_takes_no_more_requests_of_this_node_is_nobody_else_who_could_take_one() -> None:
    world = World(3, models={1, 2})
    origin, queueing, full = (world.node(index) for index in range(3))
    quiet = keeps_quiet_after(Accepted)
    world.lose = lambda s, r, m: s == queueing.peer and quiet(s, r, m)
    queueing.neighbourhood.link_down(full.peer)
    full.neighbourhood.link_down(queueing.peer)
    origin.neighbourhood.link_down(queueing.peer)
    for number in range(OPEN_REQUESTS_PER_PEER_MAX):
        world.submit(0, bytes([number]) * 16, PROMPT)
    origin.neighbourhood.link_measured(queueing.peer, 1.0, world.now)
    world.submit(0, RID, PROMPT)
    world.deliver()
    assert [*queueing.running] == [RID]
    for _ in ANSWER[:-1]:
        world.now += 5.0
        world.step_engines()
        world.deliver()
        world.carry_out(origin, origin.forwarder.tick(world.now))
        world.deliver()
    assert RID not in queueing.cancelled
    assert not origin.forwarder.punctuality.left_alone.has(queueing.peer, world.now)


@pytest.mark.parametrize(
    "kinds", [(), (Accepted,), (Accepted, Begun), (Accepted, Begun, TokenFrame)]
)
def test_who_falls_silent_behind_a_relay_is_left_alone_by_it_and_the_relay_by_nobody(
    kinds: tuple[type, ...],
) -> None:
    world = World(3)
    origin, relay, executor = (world.node(index) for index in range(3))
    quiet = keeps_quiet_after(*kinds)
    world.lose = lambda s, r, m: s == executor.peer and quiet(s, r, m)
    relayed(world)
    world.run(2)
    begun = world.now
    while not relay.running:
        ticking = min((origin, relay), key=lambda node: node.forwarder.next_deadline())
        world.now = max(world.now, ticking.forwarder.next_deadline())
        world.carry_out(ticking, ticking.forwarder.tick(world.now))
        world.deliver()
        assert world.now <= begun + STREAM_STALL_S
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.served_by == relay.peer
    assert relay.forwarder.punctuality.left_alone.has(executor.peer, world.now)
    assert not origin.forwarder.punctuality.left_alone.has(relay.peer, world.now)
    assert not origin.forwarder.punctuality.left_alone.has(executor.peer, world.now)


def test_a_relay_that_names_a_silent_executor_is_left_alone_itself() -> None:
    world = World(3)
    origin, liar, other = (world.node(index) for index in range(3))
    world.warm(1, TOKENS)
    world.lose = lambda sender, *_: sender == liar.peer
    world.submit(0, RID, PROMPT)
    world.deliver()
    origin.forwarder.receive(liar.peer, Accepted(RID, other.peer, HOP_LIMIT_MAX, 640), world.now)
    assert wait_in_vain(world, 0) <= STREAM_STALL_S + HOP_LIMIT_MAX * ACCEPT_S
    world.run()
    assert world.answer(0, RID) == WHOLE
    assert origin.forwarder.punctuality.left_alone.has(liar.peer, world.now)
    assert not origin.forwarder.punctuality.left_alone.has(other.peer, world.now)


def test_a_silent_relay_is_not_asked_again_as_it_may_still_speak() -> None:
    world = World(3, models={1, 2})
    origin, relay, executor = (world.node(index) for index in range(3))
    origin.neighbourhood.link_down(executor.peer)
    world.warm(2, TOKENS)
    late: list[TokenFrame] = []

    def lose(sender: PeerId, receiver: PeerId, message: object) -> bool:
        if receiver == origin.peer and isinstance(message, TokenFrame):
            late.append(message)
            return True
        return isinstance(message, Completed)

    world.lose = lose
    world.submit(0, RID, PROMPT)
    world.run(3)
    assert executor.running
    assert late
    while not (effects := origin.forwarder.tick(world.now)):
        world.now = origin.forwarder.next_deadline()
    world.carry_out(origin, effects)
    assert origin.forwarder.receive(relay.peer, late[0], world.now) == []
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, TimedOut)


def test_what_is_worth_it_is_computed_here_too_once_a_peer_has_answered() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    origin, warm = world.node(0), world.node(1)
    origin.neighbourhood.link_measured(warm.peer, 2000.0, world.now)
    world.submit(0, RID, PROMPT)
    world.deliver()
    assert list(warm.running) == [RID]
    assert not origin.running, "not while somebody waits for the answer"
    world.run(len(ANSWER) + 1)
    assert world.answer(0, RID) == WHOLE
    told = list(world.node(0).events[RID])
    [prefetch] = origin.running.values()
    assert (prefetch.tokens, prefetch.sampling.max_tokens) == (TOKENS, 1)
    assert (prefetch.priority, prefetch.client) == (Priority.SPARE, (origin.peer,))
    world.run()
    assert not origin.running
    assert origin.events[RID] == told, "nobody hears of it"
    assert origin.forwarder.open_requests == 0
    assert origin.forwarder.hindsight.prefetched_tokens == len(TOKENS)


def test_nothing_is_computed_here_by_a_model_that_is_gone() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    origin, warm = world.node(0), world.node(1)
    origin.neighbourhood.link_measured(warm.peer, 2000.0, world.now)
    world.submit(0, RID, PROMPT)
    world.deliver()
    origin.neighbourhood.model_gone(MODEL)
    world.run()
    assert world.answer(0, RID) == WHOLE
    assert isinstance(world.ending(0, RID), Answer)


def test_a_peer_that_knows_a_request_by_its_id_cannot_take_its_prefetch_for_its_own() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    origin, warm = world.node(0), world.node(1)
    origin.neighbourhood.link_measured(warm.peer, 2000.0, world.now)
    world.submit(0, RID, PROMPT)
    world.run(len(ANSWER) + 1)
    [prefetch_id] = origin.running
    first = next(m for _, _, m in world.log if isinstance(m, Forward))
    again = replace(first, path=(warm.peer,), hop_limit=0)
    world.wire.append((warm.peer, origin.peer, encode(again)))
    world.deliver()
    assert list(origin.running) == [prefetch_id, RID]


def test_a_deadline_ends_the_request() -> None:
    world = World(1)
    world.submit(0, RID, PROMPT)
    node = world.node(0)
    world.now += 601
    world.carry_out(node, node.forwarder.tick(world.now))
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, TimedOut)
    assert node.cancelled == [RID]


def test_the_deadline_travels_with_the_request() -> None:
    world = World(3, models={1, 2})
    world.submit(0, RID, PROMPT)
    world.deliver()
    [first] = (index for index in (1, 2) if world.node(index).running)
    world.now += 99.5
    world.kill(first)
    world.deliver()
    forwards = [message for _, _, message in world.log if isinstance(message, Forward)]
    assert [each.deadline_ms for each in forwards] == [600_000, 500_500]
    assert [each.hop_limit for each in forwards] == [1, 0], "not on to who has just failed"


@pytest.mark.parametrize("name", [MODEL, "Alias"])
def test_a_model_that_was_lost_says_why(name: str) -> None:
    world = World(1)
    node = world.node(0)
    node.neighbourhood.model_gone(MODEL)
    node.neighbourhood.lost = dict.fromkeys([MODEL, "alias"], "its file is gone.")
    node.events[RID] = []
    world.carry_out(node, node.forwarder.submit(RID, name, PROMPT, Sampling(), world.now))
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert "its file is gone" in str(ending.error)


def test_unknown_models_and_no_models_are_different_errors() -> None:
    world = World(2)
    node = world.node(0)
    node.events[RID] = []
    effects = node.forwarder.submit(RID, "other", "1", Sampling(), world.now)
    world.carry_out(node, effects)
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, ModelNotFound)
    nobody = World(1, models=set())
    nobody.submit(0, RID, "1")
    ending = nobody.ending(0, RID)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, NoRoute)


def test_who_is_no_member_any_more_hears_so() -> None:
    world = World(1, models=set())
    world.node(0).neighbourhood.outcast = True
    world.submit(0, RID, "1")
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert "(this node's membership was revoked; a new invite brings it back)" in str(ending.error)


def test_who_is_thrown_out_in_mid_answer_hears_so_at_once() -> None:
    world = World(2, models={1})
    world.submit(0, RID, "1 2")
    world.run(3)
    origin, executor = world.node(0), world.node(1).peer
    origin.neighbourhood.outcast = True
    origin.neighbourhood.link_down(executor, world.now)
    lost = origin.forwarder.peer_lost(executor, world.now, link_only=True)
    world.carry_out(origin, lost)
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert "(this node's membership was revoked; a new invite brings it back)" in str(ending.error)


@pytest.mark.parametrize("name", ["Alias", MODEL.upper()])
@pytest.mark.parametrize("models", [{0}, {1}], ids=["here", "elsewhere"])
def test_a_model_is_found_by_its_names_in_any_capitals(name: str, models: set[int]) -> None:
    world = World(2, models=models)
    node = world.node(0)
    node.events[RID] = []
    world.carry_out(node, node.forwarder.submit(RID, name, "1 2", Sampling(), world.now))
    world.run()
    assert world.answer(0, RID) == WHOLE


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"path": ()}, Malformed),
        ({"request_id": b"short"}, Malformed),
        ({"tokens": (1,)}, Malformed),
        ({"prompt": None}, Malformed),
        ({"prompt": (Turn("user", ""),) * (PROMPT_MESSAGES_MAX + 1)}, LimitExceeded),
        ({"hop_limit": 9}, LimitExceeded),
        ({"hop_limit": -1}, LimitExceeded),
        ({"model": "m" * 65}, LimitExceeded),
        ({"generated": (1,), "model_key": None}, Malformed),
        ({"sampling": Sampling(logprobs=21)}, LimitExceeded),
        ({"sampling": Sampling(logprobs=-1)}, LimitExceeded),
        ({"sampling": Sampling(grammar="a" * (GRAMMAR_CHARS_MAX + 1))}, LimitExceeded),
        ({"sampling": Sampling(json_schema="a" * (GRAMMAR_CHARS_MAX + 1))}, LimitExceeded),
        ({"sampling": Sampling(stop=("a",) * 17)}, LimitExceeded),
        ({"sampling": Sampling(stop=("a" * 257,))}, LimitExceeded),
        ({"sampling": Sampling(logit_bias=((1, 1.0),) * 1025)}, LimitExceeded),
        ({"sampling": Sampling(logit_bias=((-1, 1.0),))}, Malformed),
        ({"tokens": (1, -1)}, Malformed),
        ({"tokens": (1 << 31,)}, Malformed),
        ({"generated": (1 << 31,), "model_key": bytes(16)}, Malformed),
        ({"delivered_chars": -1}, Malformed),
    ],
)
def test_lies_in_a_forwarded_request_are_named(
    changes: dict[str, object], error: type[Exception]
) -> None:
    world = World(2)
    with pytest.raises(error):
        world.node(1).forwarder.receive(world.node(0).peer, forward(world, **changes), world.now)


def test_a_path_must_end_with_the_sender_and_never_loop() -> None:
    world = World(3)
    first, second, third = (world.node(i).peer for i in range(3))
    receiver = world.node(1).forwarder
    with pytest.raises(Malformed):
        receiver.receive(first, forward(world, path=(first, third)), world.now)
    with pytest.raises(Malformed):
        receiver.receive(first, forward(world, path=(second, first)), world.now)


def test_a_peer_may_not_open_requests_without_end() -> None:
    world = World(2)
    sender = world.node(0).peer
    receiver = world.node(1)
    for index in range(OPEN_REQUESTS_PER_PEER_MAX):
        message = forward(world, request_id=index.to_bytes(16, "big"))
        world.carry_out(receiver, receiver.forwarder.receive(sender, message, world.now))
    refusal, noticed = receiver.forwarder.receive(sender, forward(world), world.now)
    assert refusal.message.code == "overloaded"  # type: ignore[union-attr]
    assert isinstance(noticed, Noticed)
    assert (noticed.peer, noticed.matter) == (sender, "asks for more than it may")
    world.run()
    assert receiver.forwarder.lending.guests == 0
    [begun] = receiver.forwarder.receive(sender, forward(world), world.now)
    assert isinstance(begun, Tokenize)
    assert receiver.forwarder.lending.guests == 1


def test_a_prompt_that_is_taken_back_need_not_be_tokenized() -> None:
    world = World(2)
    receiver, sender = world.node(1), world.node(0).peer
    [begun] = receiver.forwarder.receive(sender, forward(world), world.now)
    assert isinstance(begun, Tokenize)
    assert begun.client == (sender,)
    stopped = receiver.forwarder.receive(sender, Cancel(RID), world.now)
    assert stopped == [CancelGeneration(MODEL, RID)]
    assert receiver.forwarder.tokenized(RID, TOKENS, world.now) == [], "it was under way"


def test_strangers_to_a_request_cannot_touch_it() -> None:
    world = World(3)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(3)
    third = world.node(2).peer
    before = world.answer(0, RID)
    for message in (
        TokenFrame(RID, 3, (1,), "forged"),
        Completed(RID, 3, "stop", 1, 1, 1, 0.0, 0.0, 0.0),
        Refused(RID, "overloaded", "forged"),
        Cancel(RID),
    ):
        for node in (world.node(0), world.node(1)):
            [noticed] = node.forwarder.receive(third, message, world.now)
            assert isinstance(noticed, Noticed)
            assert noticed.peer == third
    assert world.answer(0, RID) == before
    world.run()
    assert world.answer(0, RID) == WHOLE


def test_who_was_asked_before_may_be_late() -> None:
    world = World(3)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(3)
    origin, first = world.node(0).forwarder, world.node(1).peer
    world.carry_out(world.node(0), origin.receive(first, Refused(RID, "paused", ""), world.now))
    assert origin.receive(first, TokenFrame(RID, 3, (1,), "late"), world.now) == []
    world.run()
    assert world.answer(0, RID) == WHOLE


def test_a_request_that_comes_again_while_it_is_open_is_noticed() -> None:
    world = World(3, models={1})
    first, third = world.node(0).peer, world.node(2).peer
    receiver = world.node(1).forwarder
    receiver.receive(first, forward(world), world.now)
    noticed, refusal = receiver.receive(third, forward(world, path=(third,)), world.now)
    assert noticed == Noticed(third, "brings requests again", "one is open here already")
    # Or it would take this node for silent, and leave it alone.
    assert isinstance(refusal, Send)
    assert refusal.peer == third
    assert isinstance(refusal.message, Refused)
    assert receiver.open_requests == 1


@pytest.mark.parametrize("length", range(1, HOP_LIMIT_MAX + 1))
def test_whatever_path_a_request_came_by_the_next_node_can_read_it(length: int) -> None:
    """Else a member could have it blame the one between, and ban it in the end."""
    world = World(3, models={1, 2})
    world.warm(2, TOKENS)
    sender, relay, other = (world.node(i) for i in range(3))
    made_up = tuple(PeerId(bytes([200 + n]) * 32) for n in range(1, length))
    asked = forward(world, prompt=PROMPT, path=(*made_up, sender.peer), hop_limit=HOP_LIMIT_MAX)
    world.carry_out(relay, relay.forwarder.receive(sender.peer, asked, world.now))
    world.run(3)
    assert relay.forwarder.open_requests + other.forwarder.open_requests > 0


def test_an_answer_that_nobody_accepted_is_none_and_noticed() -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    node, peer = world.node(0), world.node(1).peer
    noticed, *effects = node.forwarder.receive(peer, TokenFrame(RID, 0, (1,), "x"), world.now)
    assert noticed == Noticed(peer, "answers what it has not accepted", "TokenFrame")
    world.carry_out(node, effects)
    world.run()
    assert world.answer(0, RID) == WHOLE, "without the lie"


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(TokenFrame(RID, 0, (-1,), "x"), id="token below zero"),
        pytest.param(TokenFrame(RID, 0, (1 << 31,), "x"), id="token beyond 31 bits"),
        pytest.param(TokenFrame(RID, 0, (1,) * 41, "x"), id="more tokens than asked for"),
        pytest.param(TokenFrame(RID, 0, (), "x" * 1025), id="text of no tokens"),
        pytest.param(Completed(RID, 0, "bored", 1, 1, 1, 0.0, 0.0, 0.0), id="no finish reason"),
        pytest.param(Completed(RID, 0, "stop", -1, 1, 1, 0.0, 0.0, 0.0), id="count below zero"),
        pytest.param(Completed(RID, 0, "stop", 1, 1, 1, -1.0, 0.0, 0.0), id="time below zero"),
        pytest.param(Completed(RID, 0, "stop", 1 << 40, 1, 1, 0.0, 0.0, 0.0), id="count too high"),
    ],
)
def test_who_lies_in_an_answer_is_found_out_and_the_answer_comes_from_elsewhere(
    lie: TokenFrame | Completed,
) -> None:
    world = World(2)
    world.warm(1, TOKENS)
    world.sampling = Sampling(max_tokens=40)
    world.submit(0, RID, PROMPT)
    origin, liar = world.node(0).forwarder, world.node(1).peer
    origin.receive(liar, Accepted(RID, liar, 1, 600), world.now)
    with pytest.raises(RemoteProtocolError):
        origin.receive(liar, lie, world.now)
    world.kill(1)
    world.run()
    assert world.answer(0, RID) == WHOLE


@pytest.mark.parametrize("tokens", [0, 3])
def test_who_answers_makes_no_request_dearer_than_it_was(tokens: int) -> None:
    """A client may be charged, by what this node counted itself; and it shows how long it took."""
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(tokens)
    origin, liar = world.node(0), world.node(1).peer
    begun = world.now
    world.now += 1
    lie = Completed(RID, tokens, "stop", 200_000, 100_000, 200_000, 1e300, 1e300, 1e300)
    world.carry_out(origin, origin.forwarder.receive(liar, lie, world.now))
    answer = world.ending(0, RID)
    assert isinstance(answer, Answer)
    assert (answer.prompt_tokens, answer.completion_tokens) == (len(TOKENS), tokens)
    assert answer.cached_tokens == len(TOKENS), "of a prompt no more is cached than there is"
    assert max(answer.queue_ms, answer.prefill_ms) <= 1000 * (world.now - begun) + 100


@pytest.mark.parametrize("hops", [-1, 0, HOP_LIMIT_MAX + 1])
def test_whom_a_peer_names_as_executor_is_a_hop_away_at_least(hops: int) -> None:
    """At none, the answer would pass for one of this machine's own."""
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    liar = world.node(1).peer
    with pytest.raises(Malformed):
        world.node(0).forwarder.receive(liar, Accepted(RID, liar, hops, 600), world.now)


def test_behind_a_relay_the_executor_is_farther_away_than_the_relay() -> None:
    world = relayed(World(3))
    world.lose = lambda _s, _r, message: not isinstance(message, Forward)
    world.deliver()
    relay, liar = world.node(1).forwarder, world.node(2).peer
    with pytest.raises(Malformed):
        relay.receive(liar, Accepted(RID, liar, 1, 640), world.now)


def test_who_lied_of_a_request_is_not_asked_for_it_again_over_its_next_link() -> None:
    """Else it would lie again, until it is banned."""
    world = World(2, models={1})
    world.lose = keeps_quiet_after(Accepted)
    world.submit(0, RID, PROMPT)
    world.deliver()
    origin, liar = world.node(0), world.node(1).peer
    assert origin.forwarder.receive(liar, TokenFrame(RID, 0, (1,), "x"), world.now)
    lie = Completed(RID, 1, "no reason", 640, 0, 1, 0.0, 0.0, 0.0)
    with pytest.raises(Malformed):
        origin.forwarder.receive(liar, lie, world.now)
    origin.neighbourhood.link_down(liar, world.now)
    world.carry_out(origin, origin.forwarder.peer_lost(liar, world.now, link_only=True))
    origin.neighbourhood.link_measured(liar, 1.0, world.now)
    world.now = origin.forwarder.next_deadline()
    if origin.forwarder.open_requests:
        world.carry_out(origin, origin.forwarder.tick(world.now))
    assert not world.wire
    assert isinstance(world.ending(0, RID), Failure)


def test_a_relay_passes_on_to_who_is_warm() -> None:
    world = relayed(World(3))
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert (ending.hops, ending.served_by) == (2, world.node(2).peer)
    assert any(isinstance(m, Accepted) and m.hops == 2 for _, _, m in world.log)


def relayed(world: World) -> World:
    """The origin has no model, and no link to the warm node 2; node 1 has both."""
    world.warm(2, TOKENS)
    world.node(0).neighbourhood.link_down(world.node(2).peer)
    world.node(0).neighbourhood.model_gone(MODEL)
    world.submit(0, RID, PROMPT)
    return world


def test_guests_cannot_make_a_relay_flood_another_with_their_requests() -> None:
    """They take each back at once, so that few are open at a time; who gets them bans the relay."""
    world = World(3, models={2})
    guest, _, other = (world.node(i).peer for i in range(3))
    forwarder = world.node(1).forwarder

    def ask(number: int) -> list[Effect]:
        rid = number.to_bytes(16, "big")
        asked = forward(world, request_id=rid)
        effects = forwarder.receive(guest, asked, world.now)
        forwarder.receive(guest, Cancel(rid), world.now)
        return effects

    # Its own requests are not counted among them.
    for _ in range(PASSED_ON_BURST + 2):
        effects = forwarder.submit(RID, MODEL, PROMPT, Sampling(), world.now)
        assert to_other(effects, other)
        forwarder.cancel(RID, world.now)
    asked = [ask(number) for number in range(PASSED_ON_BURST + 2)]
    assert all(to_other(effects, other) for effects in asked[:-1])
    [refusal] = asked[-1]
    assert isinstance(refusal, Send)
    assert isinstance(refusal.message, Refused)
    world.now += 1.5 / PASSED_ON_PER_S
    assert to_other(ask(PASSED_ON_BURST + 2), other)
    # Its own requests go there all the same.
    for _ in range(2):
        effects = forwarder.submit(RID, MODEL, PROMPT, Sampling(), world.now)
        assert to_other(effects, other)


@pytest.mark.parametrize(
    "long",
    [
        {"tokens": TOKENS * 200, "prompt": None},
        {"generated": TOKENS * 200},
        {"prompt": (Turn("user", ""),) * PROMPT_MESSAGES_MAX},
    ],
)
def test_nor_with_long_ones(long: dict[str, Any]) -> None:
    """They count as many messages there, and may come in few bytes here."""
    world = World(3, models={2})
    guest, _, other = (world.node(i).peer for i in range(3))
    sent = 0.0
    for number in range(PASSED_ON_BURST):
        rid = number.to_bytes(16, "big")
        asked = forward(world, request_id=rid, model_key=KEY, **long)
        for effect in world.node(1).forwarder.receive(guest, asked, world.now):
            if isinstance(effect, Send) and effect.peer == other:
                sent += weight(effect.message)
        world.node(1).forwarder.receive(guest, Cancel(rid), world.now)
    assert 0 < sent < PEER_MESSAGES_BURST / 2


def test_a_guest_pays_for_each_decision_among_a_crowd() -> None:
    """Whoever is asked refuses, and each time it is decided anew among hundreds."""
    world = World(
        CANDIDATES_PER_MESSAGE * 4 + 2, models={*range(2, CANDIDATES_PER_MESSAGE * 4 + 2)}
    )
    guest, node = world.node(0).peer, world.node(1)
    effects = node.forwarder.receive(guest, forward(world), world.now)
    paid = []
    while asked := [e.peer for e in effects if isinstance(e, Send) and e.peer != guest]:
        paid += [e.messages for e in effects if isinstance(e, Weighed) and e.peer == guest]
        no = Refused(RID, Overloaded.code, "no")
        effects = node.forwarder.receive(asked[0], no, world.now)
    assert len(paid) > 1
    assert min(paid) >= 3
    # This node's own clients pay nothing.
    effects = node.forwarder.submit(OTHER, MODEL, PROMPT, Sampling(), world.now)
    assert not any(isinstance(effect, Weighed) for effect in effects)


def test_a_guest_pays_for_a_look_at_all_models_that_a_crowd_has() -> None:
    world = World(CANDIDATES_PER_MESSAGE * 2, models=set())
    asked = forward(world, model="nowhere")
    effects = world.node(1).forwarder.receive(world.node(0).peer, asked, world.now)
    assert [e.messages for e in effects if isinstance(e, Weighed)] == [3]
    assert [type(e.message) for e in effects if isinstance(e, Send)] == [Refused]


def to_other(effects: list[Effect], other: PeerId) -> bool:
    [send] = effects
    return isinstance(send, Send) and send.peer == other and isinstance(send.message, Forward)


def test_who_acknowledges_nothing_does_not_fill_the_nodes_before_the_answer() -> None:
    """Two members could: one asks through a relay, and the other answers with long texts."""
    world = relayed(World(3))
    world.lose = lambda sender, receiver, message: isinstance(message, (StreamAck, TokenFrame))
    world.run(2)
    (origin, relay, executor) = (world.node(i) for i in range(3))
    text = "x" * (TOKEN_CHARS_MAX - FRAME_CHARS - 1)  # A token counts as a character.
    for seq in range(STREAM_WINDOW_FRAMES + WAITING_CHARS_MAX // TOKEN_CHARS_MAX):
        frame = TokenFrame(RID, seq, (1,), text)
        assert relay.forwarder.open_requests == 1
        effects = relay.forwarder.receive(executor.peer, frame, world.now)
    assert not any(isinstance(effect, Noticed) for effect in effects)
    last = TokenFrame(RID, seq + 1, (1,), text)
    effects = relay.forwarder.receive(executor.peer, last, world.now)
    assert [effect.peer for effect in effects if isinstance(effect, Noticed)] == [origin.peer]
    assert Send(executor.peer, Cancel(RID)) in effects
    assert relay.forwarder.open_requests == 0


def test_an_answer_has_an_end_however_long_its_tokens_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "ANSWER_CHARS_MAX", 1000)
    world = World(2, models={1})
    world.lose = keeps_quiet_after(Accepted)
    world.submit(0, RID, PROMPT)
    world.deliver()
    origin, liar = world.node(0), world.node(1).peer
    origin.forwarder.receive(liar, TokenFrame(RID, 0, (1,), "x" * 1000), world.now)
    with pytest.raises(LimitExceeded):
        origin.forwarder.receive(liar, TokenFrame(RID, 1, (1,), "x"), world.now)


def test_the_words_of_a_refusal_are_made_fit_to_be_kept_and_shown() -> None:
    """They are remembered with the request, and reach a client's terminal."""
    world = World(2, models={1})
    world.submit(0, RID, PROMPT)
    words = "\x1b[2J\u202eno" + "x" * 1_000_000
    refusal = Refused(RID, Overloaded.code, words)
    origin = world.node(0)
    world.carry_out(origin, origin.forwarder.receive(world.node(1).peer, refusal, world.now))
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert str(ending.error).startswith("[2Jnox")
    assert len(str(ending.error)) <= 300


def test_a_relay_is_not_made_to_flood_those_before_it() -> None:
    """They would ban it for what somebody behind it says again and again, or for nothing."""
    world = relayed(World(3))
    world.lose = keeps_quiet_after(Accepted, Begun)
    world.run(3)
    relay, liar = world.node(1).forwarder, world.node(2).peer
    said: list[ForwardingMessage] = [
        Accepted(RID, liar, 2, 640),
        Begun(RID, 640, 0.0),
        *(TokenFrame(RID, seq, (), "") for seq in range(3)),
        Accepted(RID, liar, 2, 640),
        Begun(RID, 640, 0.0),
    ]
    for message in said:
        assert relay.receive(liar, message, world.now) == []
    [frame] = relay.receive(liar, TokenFrame(RID, 3, (1,), "x"), world.now)
    assert frame == Send(world.node(0).peer, TokenFrame(RID, 0, (1,), "x"))


@pytest.mark.parametrize("after", [0, 3])
def test_who_computes_for_a_relay_that_dies_goes_on_for_the_origin_itself(after: int) -> None:
    world = relayed(World(3))
    world.run(after)
    origin, relay, executor = (world.node(index) for index in range(3))
    assert executor.running
    world.introduce(origin, executor)
    relay.alive = False
    origin.neighbourhood.link_down(relay.peer)
    # The executor has not noticed yet: the request is open there.
    world.carry_out(origin, origin.forwarder.peer_lost(relay.peer, world.now))
    world.run()
    assert world.answer(0, RID) == WHOLE
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert (ending.route, ending.served_by) == ("failed-over", executor.peer)
    assert RID in executor.cancelled
    assert executor.forwarder.open_requests == 0
    assert executor.forwarder.lending.guests == 0


def test_a_relay_that_was_gone_round_may_take_its_request_back_late() -> None:
    world = relayed(World(3))
    world.run(3)
    origin, relay, executor = (world.node(index) for index in range(3))
    again = forward(world, tokens=TOKENS, prompt=None, model_key=KEY, hop_limit=0)
    world.carry_out(executor, executor.forwarder.receive(origin.peer, again, world.now))
    assert executor.forwarder.receive(relay.peer, Cancel(RID), world.now) == []
    assert executor.forwarder.open_requests == 1


def test_a_request_that_comes_again_is_not_ended_by_the_end_of_the_first() -> None:
    world = World(2, models={1})
    guest, node = world.node(0).peer, world.node(1)
    tokens = forward(world, tokens=TOKENS, prompt=None, model_key=KEY)
    runs = []
    for message in (tokens, Cancel(RID), tokens):
        effects = node.forwarder.receive(guest, message, world.now)
        runs += [e.request.request_id for e in effects if isinstance(e, Generate)]
    first, second = runs
    assert first == RID
    assert second != RID
    cancelled = Finished(first, FinishReason.CANCELLED, 640, 0, 0, 0.0, 0.0, 0.0)
    assert node.forwarder.on_engine(cancelled, world.now) == []
    [frame] = node.forwarder.on_engine(Chunk(second, (100,), "<100>"), world.now)
    assert frame == Send(guest, TokenFrame(RID, 0, (100,), "<100>"))


def test_an_executor_that_the_request_has_passed_already_is_a_lie() -> None:
    """Else it would not be computed there, should the liar refuse it then."""
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    origin, liar = world.node(0), world.node(1).peer
    with pytest.raises(Malformed):
        origin.forwarder.receive(liar, Accepted(RID, origin.peer, 2, 640), world.now)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_random_kills_never_lose_or_double_text(seed: int) -> None:
    rng = random.Random(seed)
    world = World(4, seed=seed)
    world.warm(rng.randrange(4), TOKENS)
    world.submit(0, RID, PROMPT)
    for _ in range(3):
        world.run(rng.randrange(12))
        victim = rng.randrange(1, 4)
        if world.node(victim).alive:
            world.kill(victim)
    world.run()
    assert world.answer(0, RID) == WHOLE


@pytest.mark.parametrize("met_before", [False, True])
def test_a_crowd_that_draws_requests_and_refuses_them_costs_few_decisions(met_before: bool) -> None:
    """Who answered before is asked in the end; where nobody did, the request fails."""
    crowd = range(2, 40)
    world = World(40, models={1, *crowd})
    origin = world.node(0)
    liars = [world.node(index) for index in crowd]
    if met_before:
        for liar in liars:
            origin.neighbourhood.link_down(liar.peer)
        world.submit(0, OTHER, PROMPT)
        world.run()
        assert world.answer(0, OTHER) == WHOLE
    for index in crowd:
        world.warm(index, TOKENS)
        origin.neighbourhood.link_measured(world.node(index).peer, 0.1, world.now)
    for liar in liars:
        liar.forwarder.lending.paused = True
    world.submit(0, RID, PROMPT)
    world.run()
    asked = [to for _, to, message in world.log if isinstance(message, Forward)]
    assert len([peer for peer in asked if peer != world.node(1).peer]) < 10
    if met_before:
        assert world.answer(0, RID) == WHOLE
    else:
        assert isinstance(world.ending(0, RID), Failure)
