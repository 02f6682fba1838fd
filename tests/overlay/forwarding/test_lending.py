"""Requests of guests, on the owner's terms."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engine import CacheChanged, Failed, Sampling
from overlay.errors import (
    EngineFailed,
    ModelNotFound,
    NoRoute,
    Overloaded,
    Paused,
    QuotaUsedUp,
    Unreachable,
)
from overlay.forwarding import lending as lending_module
from overlay.forwarding.effects import Answer, Failure, Noticed, Send
from overlay.forwarding.job import Job
from overlay.forwarding.lending import REQUEST_TOKENS, Lending
from overlay.forwarding.stream import error_of
from overlay.forwarding.terms import NO_BOUNDS, Terms
from overlay.gossip.records import CARD, LOAD, Card, Load, block_key
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    BAN_MAX_S,
    BAN_S,
    GUESTS_TOKENS_MAX,
    OPEN_REQUESTS_PER_PEER_MAX,
    QUOTA_WINDOW_S,
)
from overlay.prefix.chain import block_hashes
from overlay.wire.anti_entropy import Change
from overlay.wire.messages import Accepted, Cancel, Refused, StreamAck, TokenFrame
from tests.overlay.forwarding.test_forwarder import forward
from tests.overlay.forwarding.world import ANSWER, KEY, MODEL, SECRET, World, forwarded, text_of

RID = b"r" * 16
OWN = b"o" * 16
TOKENS = tuple(range(640))
PROMPT = " ".join(str(t) for t in TOKENS)
WHOLE = "".join(text_of(t) for t in ANSWER)


def job_of(guest: PeerId, request_id: bytes) -> Job:
    asked = Job(request_id, MODEL, "p", Sampling(), guest, (guest,), 1, 0.0, 60.0)
    asked.client = branch_of(guest)
    return asked


def branch_of(guest: PeerId) -> tuple[bytes, ...]:
    """As in a mesh whose founder let three members in, and these everybody else."""
    return bytes([guest[0] % 3]), bytes(guest)


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


def test_whose_grammar_may_have_ended_an_engine_has_none_computed_for_a_while() -> None:
    lending = Lending(NO_BOUNDS)
    eve, key, ann = (PeerId(bytes([number]) * 32) for number in (0, 3, 1))
    now = 0.0
    for pause_s in (BAN_S, 2 * BAN_S, 4 * BAN_S):
        mean, plain = job_of(eve, RID), job_of(key, RID)
        mean.sampling = Sampling(grammar="mean")
        assert lending.begins(mean, 1, 1, now) is None
        lending.failed(plain, EngineFailed.code, now)
        assert lending.begins(mean, 1, 1, now) is None, "one without a grammar is not the cause"
        for _ in range(2):  # It had several.
            lending.failed(mean, EngineFailed.code, now)
        now += pause_s
        for guest, refused in ((eve, True), (key, True), (ann, False)):
            job = job_of(guest, RID)
            job.sampling = Sampling(json_schema="{}")
            assert isinstance(lending.begins(job, 1, 1, now - 0.1), Overloaded) == refused
            assert lending.begins(job_of(guest, RID), 1, 1, now - 0.1) is None
    now += BAN_MAX_S + 1
    lending.failed(mean, EngineFailed.code, now)
    assert lending.begins(mean, 1, 1, now + BAN_S) is None, "it is not held against it for ever"


def test_who_takes_its_grammar_back_before_the_engine_ends_has_ended_it_all_the_same() -> None:
    world = World(2, models={1})
    guest, lender = world.node(0).peer, world.node(1)
    asks = forwarded(path=(guest,), sampling=Sampling(grammar="mean"))
    world.carry_out(lender, lender.forwarder.receive(guest, asks, world.now))
    assert list(lender.running) == [RID]
    lender.forwarder.receive(guest, Cancel(RID), world.now)
    ended = Failed(RID, EngineFailed.code, "the engine died")
    assert lender.forwarder.on_engine(ended, world.now) == []
    lender.running.clear()
    world.carry_out(lender, lender.forwarder.receive(guest, asks, world.now))
    assert not lender.running
    assert lender.forwarder.lending.refused == {Overloaded.code: 1}


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
    assert executor.forwarder.lending.guests == 1
    executor.forwarder.lending.paused = True
    world.carry_out(executor, executor.forwarder.hand_back())
    assert executor.forwarder.lending.guests == 0
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


# --- How many at one time -----------------------------------------------------------------------


def test_more_guests_than_granted_go_elsewhere_and_the_owner_is_none() -> None:
    world = World(2, terms={1: Terms(guest_requests=1)})
    world.warm(1, TOKENS)
    origin, lender = world.node(0), world.node(1)
    for request_id in (OWN, b"2" * 16):
        world.submit(1, request_id, "1 2 3", local=True)
    world.submit(0, RID, PROMPT)
    world.submit(0, b"3" * 16, PROMPT)
    world.run()
    endings = [world.ending(0, each) for each in (RID, b"3" * 16)]
    assert all(isinstance(ending, Answer) for ending in endings)
    served = [ending.served_by for ending in endings if isinstance(ending, Answer)]
    assert served == [lender.peer, origin.peer]
    assert refusals(world) == [Overloaded.code]
    assert lender.forwarder.lending.refused == {Overloaded.code: 1}
    assert [world.answer(1, each) for each in (OWN, b"2" * 16)] == [WHOLE, WHOLE]


def test_a_guest_has_no_more_requests_open_than_anybody_may_have() -> None:
    lending, guest = Lending(NO_BOUNDS), World(2).node(1).peer
    ids = [bytes([number]) * 16 for number in range(OPEN_REQUESTS_PER_PEER_MAX + 1)]
    for request_id in ids[:-1]:
        assert lending.arrives(job_of(guest, request_id), private=False) is None
        lending.admitted(job_of(guest, request_id))
    more = job_of(guest, ids[-1])
    assert isinstance(lending.arrives(more, private=False), Overloaded)
    lending.ended(ids[0])
    assert lending.arrives(more, private=False) is None
    lending.admitted(more)
    assert isinstance(lending.arrives(job_of(guest, ids[0]), private=False), Overloaded)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.sampled_from([10, 90, 110, 600]),
            st.sampled_from(["asks", "hears", "ends"]),
        ),
        min_size=10,
    )
)
def test_prompts_of_a_crowd_have_a_bound_and_short_ones_a_place(
    steps: list[tuple[int, int, str]],
) -> None:
    """However many guests somebody made up, and however long the prompts that they have waiting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lending_module, "REQUEST_TOKENS", 0)
        patch.setattr(lending_module, "GUESTS_TOKENS_MAX", 1000)
        patch.setattr(lending_module, "MEMBERS_MAX", 10)
        _fill(steps, most=1000, share=100)


def _fill(steps: list[tuple[int, int, str]], most: int, share: int) -> None:
    """Guests ask, for so many tokens, or hear so many more of an answer, or end a request."""
    lending = Lending(NO_BOUNDS)
    held: dict[PeerId, dict[bytes, int]] = {}
    jobs: dict[bytes, Job] = {}
    for number, (who, tokens, does) in enumerate(steps):
        guest = PeerId(bytes([who]) * 32)
        if does == "ends" and held.get(guest):
            request_id, _ = held[guest].popitem()
            lending.ended(request_id)
            continue
        own, branches = sum(held.get(guest, {}).values()), Counter[bytes]()
        for other, requests in held.items():
            branches[branch_of(other)[0]] += sum(requests.values())
        of_branch, of_all = branches[branch_of(guest)[0]] + tokens, branches.total() + tokens
        in_largest = of_branch > max(branches.values(), default=0)
        fits = of_all <= most or own + tokens <= share or (of_all <= 2 * most and not in_largest)
        if does == "hears" and held.get(guest):
            request_id = [*held[guest]][-1]
            jobs[request_id].generated += (1,) * tokens
            assert (lending.outgrown(jobs[request_id]) is None) is fits
            if fits:
                held[guest][request_id] += tokens
            else:
                del held[guest][request_id]
                lending.ended(request_id)
            continue
        as_text = replace(job_of(guest, number.to_bytes(16, "big")), prompt="x" * tokens)
        job = replace(as_text, prompt=None, tokens=(1,) * tokens) if number % 2 else as_text
        assert (lending.arrives(job, private=False) is None) is fits
        if fits:
            lending.admitted(job)
            held.setdefault(guest, {})[job.request_id] = tokens
            jobs[job.request_id] = job
    assert lending.guests == sum(map(len, held.values()))
    for request_id in jobs:
        lending.ended(request_id)
    counts = (lending._open, lending._tokens, lending._branches, lending._all_tokens)
    assert not any(counts), "nothing is kept of anybody"


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(logit_bias=((1, 0.5),) * 400),
        Sampling(grammar="x" * 1001),
        Sampling(json_schema="x" * 1001),
        Sampling(stop=("x" * 200,) * 6),
    ],
    ids=["logit_bias", "grammar", "json_schema", "stop"],
)
def test_what_comes_with_a_prompt_is_kept_too(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending_module, "GUESTS_TOKENS_MAX", REQUEST_TOKENS + 1000)
    lending, guest = Lending(NO_BOUNDS), World(2).node(1).peer
    job = replace(job_of(guest, RID), sampling=sampling)
    assert isinstance(lending.arrives(job, private=False), Overloaded)


def test_however_short_the_requests_of_a_crowd_are_they_have_a_bound() -> None:
    lending, taken = Lending(NO_BOUNDS), 0
    for number in range(341):
        guest = PeerId(bytes([0]) + number.to_bytes(31, "big"))
        for index in range(OPEN_REQUESTS_PER_PEER_MAX):
            job = job_of(guest, (32 * number + index).to_bytes(16, "big"))
            if lending.arrives(job, private=False) is None:
                lending.admitted(job)
                taken += 1
    assert taken * REQUEST_TOKENS < 1.5 * GUESTS_TOKENS_MAX
    friend = PeerId(bytes([1]) * 32)
    assert lending.arrives(job_of(friend, RID), private=False) is None


@pytest.mark.parametrize("acknowledged", [True, False])
def test_answers_that_pass_through_for_a_crowd_have_a_bound(
    acknowledged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accomplice answers without end; what was answered is kept, to go on from it elsewhere."""
    most = OPEN_REQUESTS_PER_PEER_MAX * REQUEST_TOKENS + 10_000
    monkeypatch.setattr(lending_module, "GUESTS_TOKENS_MAX", most)
    world = World(3, models={2})
    guest, _, accomplice = (world.node(index).peer for index in range(3))
    forwarder = world.node(1).forwarder
    ids = [bytes([number]) * 16 for number in range(OPEN_REQUESTS_PER_PEER_MAX)]
    for request_id in ids:
        forwarder.receive(guest, forwarded(request_id=request_id, path=(guest,)), world.now)
        forwarder.receive(accomplice, Accepted(request_id, accomplice, 2, 3), world.now)
    named = set()
    for seq in range(1000):
        for request_id in ids:
            tokens = (1,) * 10 if acknowledged else ()
            said = TokenFrame(request_id, seq, tokens, "x")
            effects = forwarder.receive(accomplice, said, world.now)
            named |= {effect.peer for effect in effects if isinstance(effect, Noticed)}
            if acknowledged:
                forwarder.receive(guest, StreamAck(request_id, seq), world.now)
    assert named == {guest}
    assert forwarder.open_requests < len(ids)


def test_who_tells_that_it_is_full_is_not_asked() -> None:
    world = World(3, models={1, 2}, terms={1: Terms(guest_requests=1)})
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    world.run(3)
    full = world.node(1).forwarder.lending.places
    assert full == 0
    told = Change(LOAD, 200, Load(guest_places=full).pack())
    for index in (0, 2):
        world.node(index).neighbourhood.records_changed(world.node(1).peer, (told,))
    world.submit(0, OWN, PROMPT)
    world.run()
    ending = world.ending(0, OWN)
    assert isinstance(ending, Answer)
    assert ending.served_by == world.node(2).peer
    assert refusals(world) == []
    assert world.node(1).forwarder.lending.places == 1


def test_who_told_that_it_is_full_is_asked_if_there_is_nobody_else() -> None:
    world = World(2, models={1}, terms={1: Terms(guest_requests=1)})
    told = Change(LOAD, 200, Load(guest_places=0).pack())
    world.node(0).neighbourhood.records_changed(world.node(1).peer, (told,))
    world.submit(0, RID, PROMPT)
    world.submit(0, OWN, PROMPT)
    world.run()
    assert isinstance(world.ending(0, RID), Answer), "its place is free again"
    failure = world.ending(0, OWN)
    assert isinstance(failure, Failure)
    assert "a friend's node takes no more requests of guests now" in str(failure.error)


def test_places_go_round_by_branches_where_guests_ask_all_the_time() -> None:
    lending, friend = Lending(Terms(guest_requests=1)), PeerId(bytes([1]) * 32)
    crowd = [PeerId(bytes([0, number]) * 16) for number in range(5)]
    served, asked = [], 0
    for number in range(10):
        for guest in (*crowd, friend):  # the crowd is always faster
            job = job_of(guest, (asked := asked + 1).to_bytes(16, "big"))
            if lending.arrives(job, private=False) is None:
                lending.admitted(job)
                served.append((guest, job.request_id))
        assert len(served) == number + 1, "no place is left empty"
        lending.ended(served[-1][1])
    assert sum(guest == friend for guest, _ in served) == 5
    assert lending.places == 1


# --- Tokens per minute --------------------------------------------------------------------------


def test_a_guest_that_used_its_minute_up_is_told_when_to_come_again() -> None:
    world = World(2, models={1}, terms={1: Terms(guest_tokens_per_minute=900)})
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.answer(0, RID) == WHOLE
    lender = world.node(1).forwarder.lending
    assert lender.spent(world.now) == {world.node(0).peer: len(TOKENS) + len(ANSWER)}
    world.submit(0, OWN, PROMPT)
    world.run()
    ending = world.ending(0, OWN)
    assert isinstance(ending, Failure)
    assert isinstance(ending.error, QuotaUsedUp)
    assert "again in 5" in str(ending.error) or "again in 6" in str(ending.error)
    assert 50 < ending.error.retry_after_s <= QUOTA_WINDOW_S
    # The owner has no quota, and the guest has a new one in the next minute.
    world.submit(1, b"2" * 16, PROMPT, local=True)
    world.run()
    assert world.answer(1, b"2" * 16) == WHOLE
    world.now += QUOTA_WINDOW_S
    world.submit(0, b"3" * 16, PROMPT)
    world.run()
    assert world.answer(0, b"3" * 16) == WHOLE


def test_who_was_refused_asks_others_for_as_long_as_it_was_told() -> None:
    world = World(2, terms={1: Terms(guest_tokens_per_minute=900)})
    world.warm(1, TOKENS)
    origin, lender = world.node(0), world.node(1)
    served = []
    for number in range(4):
        if number == 3:
            world.now += QUOTA_WINDOW_S
        # The toy engine counts nothing as cached, so that each costs the guest 680 tokens.
        world.submit(0, bytes([number]) * 16, PROMPT)
        world.run()
        ending = world.ending(0, bytes([number]) * 16)
        assert isinstance(ending, Answer)
        served.append(ending.served_by)
    assert served == [lender.peer, origin.peer, origin.peer, lender.peer]
    assert refusals(world) == [QuotaUsedUp.code], "the third was not even asked for"


def test_an_answer_that_outgrows_the_quota_goes_on_elsewhere() -> None:
    world = World(2, terms={1: Terms(guest_tokens_per_minute=660)})
    world.warm(1, TOKENS)
    world.sampling = Sampling(max_tokens=len(ANSWER))
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.answer(0, RID) == WHOLE, "no token lost or doubled"
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert (ending.route, ending.served_by) == ("failed-over", world.node(0).peer)
    assert world.node(1).forwarder.lending.spent(world.now) == {world.node(0).peer: 660}
    assert world.node(1).cancelled == [RID]


def test_what_never_fits_into_a_minute_is_refused_for_good() -> None:
    world = World(2, models={1}, terms={1: Terms(guest_tokens_per_minute=100)})
    world.submit(0, RID, PROMPT)
    world.run()
    ending = world.ending(0, RID)
    assert isinstance(ending, Failure)
    assert "shorten it" in str(ending.error)
    assert ending.error.retry_after_s == 0
    # The owner's own may take any number.
    world.submit(1, OWN, PROMPT, local=True)
    world.run()
    assert world.answer(1, OWN) == WHOLE


def test_long_answers_of_others_keep_nobody_out_for_good() -> None:
    """Who asks through this node, and has an accomplice answer, makes all answers look long."""
    world = World(3, models={1}, terms={1: Terms(guest_tokens_per_minute=900)})
    lender, guest, accomplice = world.node(1), world.node(0), world.node(2)
    long = job_of(accomplice.peer, OWN)
    long.generated += (1,) * 100_000
    lender.forwarder._placement._answers.ended(long)
    world.submit(0, RID, PROMPT)
    world.run()
    assert world.answer(0, RID) == WHOLE
    assert lender.forwarder.lending.spent(world.now) == {guest.peer: len(TOKENS) + len(ANSWER)}


@pytest.mark.parametrize(
    ("told_ms", "kept_s"), [(-5000, 0.0), (1500, 1.5), (1 << 62, QUOTA_WINDOW_S)]
)
def test_whoever_refuses_is_left_alone_within_bounds(told_ms: int, kept_s: float) -> None:
    refused = Refused(RID, QuotaUsedUp.code, "used up", told_ms)
    assert error_of(refused).retry_after_s == kept_s


# --- Private models -----------------------------------------------------------------------------


def test_a_private_model_is_not_there_for_guests() -> None:
    world = World(2, models={1}, terms={1: Terms(private=("ALIAS",))})
    world.submit(0, RID, PROMPT)
    world.run()
    assert isinstance(world.ending(0, RID), Failure)
    [attempt] = world.node(0).forwarder.explanations.find(RID.hex()).attempts
    assert attempt.error is not None
    assert attempt.error.code == ModelNotFound.code
    world.submit(1, OWN, PROMPT)
    world.run()
    assert world.answer(1, OWN) == WHOLE


def test_its_name_and_its_blocks_stay_at_home() -> None:
    world = World(2, models={1}, terms={1: Terms(private=(MODEL,))})
    lender = world.node(1)
    hashes = block_hashes(SECRET, KEY, TOKENS)
    lender.neighbourhood.cache_changed(MODEL, CacheChanged(hashes, ()))
    lender.neighbourhood.prompt_runs(MODEL, hashes)
    assert lender.neighbourhood.summary.take(world.now) is None
    assert lender.neighbourhood.models[MODEL].hashes == set(hashes)
    lender.neighbourhood.model_gone(MODEL)
    assert lender.neighbourhood.summary.take(world.now + 10) is None
    # Nor does it say what it has when a guest asks for something else.
    world = World(2, models={1}, terms={1: Terms(private=(MODEL,))})
    origin = world.node(0)
    message = forward(world, model="other")
    effects = world.node(1).forwarder.receive(origin.peer, message, world.now)
    (sent,) = effects
    assert isinstance(sent, Send)
    assert isinstance(sent.message, Refused)
    assert sent.message.code in (ModelNotFound.code, NoRoute.code)
    assert MODEL not in sent.message.message


def test_a_private_model_that_was_loaded_meanwhile_takes_no_guests_request_over() -> None:
    world = World(3, models={2}, terms={1: Terms(private=(MODEL,))})
    lender, origin = world.node(1), world.node(0).peer
    world.carry_out(lender, lender.forwarder.receive(origin, forward(world), world.now))
    world.load(1)
    world.kill(2)
    assert not lender.running
    assert refusals(world) == [Unreachable.code]


def test_what_was_refused_is_computed_where_it_goes_next() -> None:
    """A friend that passed it on to who had refused it would pay for it there."""
    world = World(3, models={1, 2}, terms={1: Terms(guest_tokens_per_minute=900)})
    origin, lender, other = (world.node(index) for index in range(3))
    world.warm(1, TOKENS)
    origin.forwarder.punctuality.left_alone.refused(lender.peer, world.now + QUOTA_WINDOW_S)
    world.submit(0, RID, PROMPT)
    world.run()
    ending = world.ending(0, RID)
    assert isinstance(ending, Answer)
    assert ending.served_by == other.peer
    assert lender.forwarder.lending.spent(world.now) == {}
