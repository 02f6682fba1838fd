"""What a choice costs later requests, or saves them: copies, and who is to keep one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from overlay.identity.peer_id import PeerId
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.routing.cost import PROMPT_STEP_MS, Candidate
from overlay.routing.cost_policy import CostPolicy
from overlay.routing.decision import Decision
from overlay.routing.keeper import keeper
from overlay.routing.policy import Question
from tests.overlay.routing.candidates import PROMPT

SELF, WARM, COLD = (PeerId(bytes([n]) * 32) for n in (1, 2, 3))
replace = Candidate._replace
ANSWER = 128
BLOCKS = tuple(range(20))

#: 5 ms for a token of a prompt: 3 s for what is cached there, and not here.
this_node = Candidate(SELF, is_self=True, prefill_rate=200.0, decode_rate=20.0)
warm = Candidate(WARM, rtt_ms=3.0, match_tokens=608, prefill_rate=200.0, decode_rate=20.0)
far = replace(warm, rtt_ms=300.0)
near = replace(warm, rtt_ms=10.0)
known_to_nobody = replace(near, match_tokens=0)


def decide(
    policy: CostPolicy,
    *candidates: Candidate,
    now: float = 0.0,
    forwarded: bool = False,
    blocks: tuple[int, ...] = BLOCKS,
) -> Decision:
    question = Question(PROMPT, blocks, ANSWER, forwarded=forwarded)
    return policy.decide(question, candidates, now)


def later_ms(decision: Decision) -> dict[PeerId, float]:
    return {each.peer: each.later_ms for each in decision.estimates}


def saved_ms(
    policy: CostPolicy, there: Candidate, here: Candidate = this_node, **asked: Any
) -> float:
    """What a copy here of what is cached there is expected to save requests to come."""
    return -later_ms(decide(policy, there, here, **asked))[SELF]


def new() -> CostPolicy:
    return CostPolicy(random.Random(0))


# --- Copies -----------------------------------------------------------------------------------


def test_a_prefix_that_is_asked_for_again_and_again_comes_home_in_the_end() -> None:
    policy = new()
    decisions = [decide(policy, this_node, far, now=float(n)) for n in range(10)]
    assert {d.choice for d in decisions} == {WARM}
    tokens = [d.prefetch_tokens for d in decisions]
    first = tokens.index(608)
    # Computing it takes 3 s here: no later than when as much was paid for the distance.
    assert 1 <= first <= 10


def test_nobody_waits_for_a_copy_that_comes_anyway() -> None:
    """However much it is worth: it is computed afterwards, in time that is spare."""
    policy, distant = new(), replace(far, rtt_ms=2500.0)
    decisions = [decide(policy, this_node, distant, now=float(n)) for n in range(40)]
    assert {d.choice for d in decisions} == {WARM}
    assert any(d.prefetch_tokens == 608 for d in decisions)


def test_who_would_wait_longer_for_the_way_computes_at_once() -> None:
    farther = replace(warm, rtt_ms=2900.0)
    decision = decide(new(), this_node, farther, now=0.0)
    assert (decision.choice, decision.prefetch_tokens) == (SELF, 0)


def test_a_busy_machine_prefetches_as_an_idle_one_for_it_gives_way() -> None:
    def told(here: Candidate) -> list[int]:
        policy, there = new(), replace(far, rtt_ms=100.0)
        return [decide(policy, here, there, now=10.0 * n).prefetch_tokens for n in range(20)]

    idle = told(this_node)
    assert any(idle)
    assert told(replace(this_node, pending_prefill_tokens=2000)) == idle


def first_copy(there: Candidate, lost_share: float) -> int:
    """How many requests come before a copy is worth it, one every ten seconds."""
    policy = new()
    told = [replace(c, lost_share=lost_share) for c in (this_node, there)]
    tokens = [decide(policy, *told, now=10.0 * n).prefetch_tokens for n in range(60)]
    return tokens.index(608)


def test_where_memory_is_short_a_copy_has_to_be_worth_more() -> None:
    busy = replace(far, pending_prefill_tokens=1)
    assert first_copy(busy, 0.0) < first_copy(busy, 0.2)


def test_where_nobody_waits_a_copy_takes_room_from_nobody() -> None:
    assert first_copy(far, 0.0) == first_copy(far, 0.2)


def test_what_is_asked_for_once_is_not_fetched_home() -> None:
    policy = new()
    for n in range(10):
        blocks = tuple(range(100 * n, 100 * n + 20))
        decision = decide(policy, this_node, far, now=float(n), blocks=blocks)
        assert (decision.choice, decision.prefetch_tokens) == (WARM, 0)


def test_a_guest_is_not_worth_a_copy() -> None:
    policy = new()
    asked = [decide(policy, this_node, far, now=float(n), forwarded=True) for n in range(20)]
    assert {(d.choice, d.prefetch_tokens) for d in asked} == {(WARM, 0)}


@pytest.mark.parametrize(
    ("here", "rtt_ms"),
    [
        (this_node, 304.0),
        (replace(this_node, match_tokens=320), 144.0),
        (replace(this_node, prefill_rate=400.0), 152.0),
    ],
)
def test_a_copy_has_to_save_a_tenth_of_its_computation(here: Candidate, rtt_ms: float) -> None:
    """Of what is lacking here. Until more is known, each prefix is expected once more."""
    for more_ms, tokens in ((-1.0, 0), (1.0, 608)):
        decision = decide(new(), here, replace(warm, rtt_ms=rtt_ms + more_ms))
        assert (decision.choice, decision.prefetch_tokens) == (WARM, tokens)


def test_where_memory_is_short_a_copy_saves_less_and_costs_more() -> None:
    busy = replace(near, pending_prefill_tokens=1)
    here, there = (replace(c, lost_share=0.2) for c in (this_node, busy))
    assert saved_ms(new(), there, here, now=30.0) < 0.8 * saved_ms(new(), busy, now=30.0)
    there = replace(there, rtt_ms=700.0)
    assert saved_ms(new(), there, here, now=30.0) > 304.0, "this were enough if nothing were lost"
    assert decide(new(), here, there, now=30.0).prefetch_tokens == 0


def test_each_use_of_a_prefix_makes_the_next_ones_as_likely() -> None:
    policy = new()
    for uses in range(10):
        assert uses * near.rtt_ms < saved_ms(policy, near) <= (uses + 2) * near.rtt_ms


def test_the_uses_of_a_prefix_count_for_all_prompts_that_begin_with_it() -> None:
    """Of which 19 blocks were cached somewhere."""

    def saved(*blocks: int) -> float:
        policy = new()
        for _ in range(5):
            decide(policy, this_node, near)
        return saved_ms(policy, near, blocks=blocks)

    unknown = saved(*range(100, 120))
    assert saved(*range(18), 100, 101) < unknown + near.rtt_ms, "it ends before"
    assert saved(*range(19), 100) > unknown + 4 * near.rtt_ms


def test_the_way_to_the_nearest_of_those_who_have_it_is_saved() -> None:
    others = [replace(near, peer=PeerId(bytes([n]) * 32), rtt_ms=n * 10.0) for n in range(5, 9)]
    for there in (others, others[::-1]):
        assert later_ms(decide(new(), this_node, *there))[SELF] == -50.0


@pytest.mark.parametrize(
    "candidates",
    [
        [far, replace(far, peer=COLD, match_tokens=0)],
        [replace(this_node, match_tokens=608), far],
        [replace(this_node, match_tokens=608, running=12), far],
    ],
    ids=["no model here", "cached here", "cached here, but this node is busy"],
)
def test_there_is_no_copy_to_make(candidates: list[Candidate]) -> None:
    policy = new()
    for _ in range(10):
        decision = decide(policy, *candidates)
        assert decision.prefetch_tokens == 0
        assert not any(later_ms(decision).values())


def test_what_nobody_has_cached_is_used_by_nobody() -> None:
    policy = new()
    for blocks in ((), *[BLOCKS] * 10):
        decide(policy, this_node, known_to_nobody, blocks=blocks)
    assert saved_ms(policy, near) <= 2 * near.rtt_ms


def converse(policy: CostPolicy, prompts: int, *candidates: Candidate, **asked: Any) -> None:
    """Conversations of so many prompts each."""
    for chat in range(1, 400 // prompts):
        for turn in range(1, prompts + 1):
            blocks = tuple(range(1000 * chat, 1000 * chat + turn))
            decide(policy, *candidates, blocks=blocks, **asked)


@pytest.mark.parametrize(("prompts", "turns"), [(1, 0), (2, 1), (3, 2), (4, 3), (40, 3)])
@pytest.mark.parametrize("there", [known_to_nobody, near])
def test_a_conversation_is_expected_to_go_on_as_others_did_and_for_three_turns_at_most(
    prompts: int, turns: int, there: Candidate
) -> None:
    """Each turn has its way, and waits there, as far as it would not at home."""
    slow = replace(this_node, prefill_rate=20.0)
    saved = []
    for wait_ms in (0.0, PROMPT_STEP_MS, PROMPT_STEP_MS + 100.0):
        policy = new()
        converse(policy, prompts, slow, there)
        busy = replace(near, pending_prefill_tokens=round(wait_ms / 5))
        saved.append(saved_ms(policy, busy, slow))
    assert saved[1] == saved[0]
    assert saved[2] - saved[1] == pytest.approx(100.0 * turns, abs=30.0)
    assert turns * near.rtt_ms * 0.8 < saved[0] <= (turns + 2) * near.rtt_ms * 1.2


def test_guests_tell_nothing_of_what_the_clients_here_will_ask() -> None:
    policy = new()
    for there in (known_to_nobody, near):
        converse(policy, 4, this_node, there, forwarded=True)
    assert saved_ms(policy, near) == saved_ms(new(), near)


cached_here = replace(this_node, match_tokens=608)


@pytest.mark.parametrize(
    ("first", "then", "stays"),
    [
        ([cached_here, near], [cached_here, near], True),
        ([cached_here, near], [this_node, near], False),
        ([replace(cached_here, running=12), near], [this_node, near], False),
        ([this_node, replace(near, rtt_ms=400.0)], [this_node, near], False),
        ([this_node, replace(near, pending_prefill_tokens=2000)], [this_node, near], False),
        ([this_node, near], [this_node, near], True),
    ],
    ids=[
        "it stays",
        "it goes",
        "it goes while it is not used here",
        "a copy goes",
        "what was computed here goes",
        "it never came",
    ],
)
def test_a_copy_is_worth_little_where_what_comes_is_gone_when_it_is_needed_again(
    first: list[Candidate], then: list[Candidate], *, stays: bool
) -> None:
    policy = new()
    for n in range(40):
        decide(policy, *first, now=600.0 * n)
        decide(policy, *then, now=600.0 * n + 300.0)
    expected = 2 * near.rtt_ms
    saved = saved_ms(policy, near, now=600.0 * 40)
    assert saved > expected if stays else saved < expected / 2


def test_of_two_prefixes_a_copy_of_the_popular_one_is_worth_more_than_its_uses_tell() -> None:
    """What stays for 20 s is needed once every 10 s, and once every 80 s."""
    policy = new()
    popular, rare = (tuple(range(n, n + 20)) for n in (100, 200))

    def ask(blocks: tuple[int, ...], now: float, *, held: bool) -> None:
        decide(policy, cached_here if held else this_node, near, now=now, blocks=blocks)

    for n in range(200):
        ask(popular, 10.0 * n, held=True)
        if n % 2 == 0:
            ask(BLOCKS, 10.0 * n, held=False)
        if n % 8 == 0:
            ask(rare, 10.0 * n, held=False)
    often, seldom = (saved_ms(policy, near, now=2000.0, blocks=each) for each in (popular, rare))
    assert 0 < 16 * seldom < often


# --- Who is to keep one -----------------------------------------------------------------------

peers = [PeerId(bytes([n]) * 32) for n in range(4, 10)]


def rooms_ms(policy: CostPolicy, *matches: int, lost_share: float = 0.5) -> list[float]:
    """What it costs others that these keep so much of the prompt."""
    there = [
        replace(warm, peer=peer, match_tokens=tokens, lost_share=lost_share)
        for peer, tokens in zip(peers, matches, strict=False)
    ]
    later = later_ms(decide(policy, *there))
    return [later[each.peer] for each in there]


@pytest.mark.parametrize("tokens", [20, 32, 64, 320, 608, 640])
def test_all_but_one_holder_of_a_prefix_pay_for_the_room_that_it_takes(tokens: int) -> None:
    found = rooms_ms(new(), *[tokens] * len(peers))
    kept = peers.index(keeper(max(tokens // BLOCK_TOKENS, 1) - 1, peers))
    # Memory is worth 3 times as much as time, on top of what it is worth where none is short.
    assert found == [0.0 if n == kept else 3 * tokens * 5.0 for n in range(len(peers))]


def test_who_has_nearly_as_much_of_a_prefix_holds_it_too() -> None:
    for nearly, less in ((480, 416), (456, 448)):
        found = rooms_ms(new(), 608, nearly, less, 0, nearly, less)
        assert [room > 0 for room in found].count(True) == 2
        assert [found[n] for n in (2, 3, 5)] == [0.0, 0.0, 0.0]


def test_what_is_used_more_often_may_be_there_more_often() -> None:
    policy = new()
    rooms = [max(rooms_ms(policy, 608, 608)) for _ in range(5)]
    assert rooms == pytest.approx([rooms[0] / max(1, uses) for uses in range(5)])


def test_where_nothing_is_lost_copies_cost_no_room() -> None:
    assert rooms_ms(new(), 608, 608, 608, lost_share=0.0) == [0.0] * 3


def test_where_memory_is_short_all_nodes_keep_to_one_copy() -> None:
    twins = [
        replace(warm, peer=PeerId(bytes([n]) * 32), rtt_ms=rtt, lost_share=0.5)
        for n, rtt in ((4, 3.0), (5, 30.0))
    ]
    choices = set()
    for nearer in (twins, [replace(t, rtt_ms=33.0 - t.rtt_ms) for t in twins]):
        policy = new()
        question = Question(PROMPT, BLOCKS, ANSWER, forwarded=False)
        choices.add(policy.decide(question, [this_node, *nearer], 0.0).choice)
    assert len(choices) == 1
