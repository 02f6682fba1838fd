"""A mesh in virtual time, request by request."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.limits import REQUEST_DEADLINE_S
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.routing.cost_policy import CostPolicy
from overlay.sim.baselines import REGISTRY
from overlay.sim.churn import Fault, Gone, Split
from overlay.sim.machine import Machine
from overlay.sim.network import Links, Network, uniform
from overlay.sim.outcome import Outcome
from overlay.sim.workload import Session, Turn
from overlay.sim.world import World

NODES = 4


def outcomes(
    sessions: list[Session],
    policy: str,
    *,
    nodes: int = 2,
    links: Links = Links(),  # noqa: B008 - frozen
    rtt_s: float = 0.02,
    faults: Iterable[Fault] = (),
) -> list[Outcome]:
    """What becomes of all turns, in the order of their ends."""
    world = World(
        [Machine()] * nodes,
        [8192] * nodes,
        Network(uniform(nodes, rtt_s), links, random.Random(1)),
        iter(sessions),
        requests=sum(len(session.turns) for session in sessions),
        faults=faults,
        rng=random.Random(2),
    )
    rng = random.Random(3)
    if policy == "hearth":
        world.populate(lambda _: CostPolicy(rng), gossip=True)
    else:
        rival = REGISTRY[policy]
        gossip = rival.knows in ("load", "summaries")
        world.populate(rival.policies(world, rng), gossip=gossip)
    world.run(lambda _: None)
    return world.outcomes


def question(at_s: float, origin: int, prompt: Iterable[int], answer: int = 20) -> Session:
    return Session(at_s, origin, [Turn(tuple(prompt), (7,) * answer, 0.0)])


@pytest.mark.parametrize("spares", [True, False])
def test_engines_hear_of_copies_elsewhere_unless_they_are_rivals(spares: bool) -> None:
    # Both are asked before either has told the other of anything.
    asked = [question(0.0, n, range(640)) for n in range(2)]
    asked.append(question(20.0, 0, range(1000, 1040)))
    world = World(
        [Machine()] * 2,
        [8192] * 2,
        Network(uniform(2, 0.02), Links(), random.Random(1)),
        iter(asked),
        requests=3,
        rng=random.Random(2),
    )
    world.populate(lambda _: CostPolicy(random.Random(3)), gossip=True, spares=spares)
    told: list[int] = []
    for node in world.nodes:
        node.engine.copies_changed = told.extend  # type: ignore[method-assign,assignment]
    world.run(lambda _: None)
    assert len({*told}) == (640 // BLOCK_TOKENS if spares else 0)


def test_the_deadline_is_kept_to_without_gossip() -> None:
    """More at once than a machine computes in that time."""
    asked = [question(0.0, 0, range(n * 3000, n * 3000 + 3000)) for n in range(60)]
    found = outcomes(asked, "local-only")
    failed = [outcome for outcome in found if outcome.failed]
    assert 0 < len(failed) < len(asked) == len(found)
    for outcome in failed:
        assert outcome.total_ms == pytest.approx(1e3 * REQUEST_DEADLINE_S)


def test_who_is_not_heard_of_is_given_up_without_gossip() -> None:
    """Nine of ten messages are lost and sent again until they come through: that takes too long."""
    asked = [question(60.0 * n, 0, range(n, n + 40)) for n in range(20)]
    found = outcomes(asked, "round-robin", rtt_s=1.0, links=Links(loss=0.9))
    assert len(found) == len(asked)
    assert not any(outcome.failed for outcome in found)
    # Half of them were sent away.
    back = [o for o in found if o.executor == 0 and o.total_ms > 4000]
    assert back, "computed here after all, once nobody had accepted for 4 s"


@pytest.mark.parametrize("policy", ["round-robin", "longest-match"])
@pytest.mark.parametrize("goodbye", [True, False])
def test_an_answer_that_is_lost_in_the_middle_goes_on_elsewhere(policy: str, goodbye: bool) -> None:
    warm = question(0.0, 1, range(300), answer=2)
    asked = question(30.0, 0, [*range(300), 5], answer=400)
    aside = question(29.0, 0, range(1000, 1040), answer=2)  # round-robin's other turn
    whole = outcomes([warm, aside, asked], policy)[-1]
    assert (whole.executor, whole.total_ms > 6000) == (1, True)
    again = outcomes([warm, aside, asked], policy, faults=[Gone(33.0, 1, goodbye=goodbye)])[-1]
    assert (again.executor, again.failed, again.hops) == (0, False, 0)
    assert again.ttft_ms == whole.ttft_ms, "its first token came before"
    # The prompt, and the answer so far, are computed again; a goodbye spares the detection.
    later_ms = again.total_ms - whole.total_ms
    assert 1000 < later_ms - (0 if goodbye else 3000) < 3500


def test_clients_of_a_node_that_is_gone_ask_nobody_and_those_under_way_fail() -> None:
    asked = [question(at_s, 1, range(40), answer=200) for at_s in (5.0, 19.0, 30.0, 50.0)]
    found = outcomes(asked, "local-only", faults=[Gone(20.0, 1, 40.0)])
    assert [(o.request, o.failed) for o in found] == [(1, False), (2, True), (4, False)]
    assert found[1].total_ms == pytest.approx(1000)
    assert [o.cached_tokens for o in found] == [0, 0, 0], "the cache is gone"


def test_a_short_partition_only_delays() -> None:
    asked = question(10.0, 0, range(40), answer=400)
    aside = question(0.0, 0, range(1000, 1040), answer=2)
    whole = outcomes([aside, asked], "round-robin")[-1]
    assert whole.executor == 1
    parted = [Split(12.0, (0, 1), 14.0)]
    assert (
        outcomes([aside, asked], "round-robin", faults=parted)[-1]._replace(total_ms=whole.total_ms)
        == whole
    )
    for_good = [Split(12.0, (0, 1))]
    assert outcomes([aside, asked], "round-robin", faults=for_good)[-1].executor == 0


GONE = st.builds(
    lambda at_s, node, away_s, goodbye: Gone(at_s + 0.25, node, at_s + 0.25 + away_s, goodbye),
    st.integers(0, 40),
    st.integers(1, NODES - 1),
    st.sampled_from([0.0, 1.0, 5.0, 20.0, 1000.0]),
    st.booleans(),
)
SPLITS = st.builds(
    lambda at_s, part, lasts_s: Split(at_s + 0.5, tuple(part), at_s + 0.5 + lasts_s),
    st.integers(0, 40),
    st.lists(st.integers(0, 1), min_size=NODES, max_size=NODES),
    st.sampled_from([0.5, 2.5, 10.0, 1000.0]),
)
ASKED = st.tuples(
    st.integers(0, 45), st.integers(0, NODES - 1), st.integers(0, 2), st.sampled_from([1, 20, 150])
)


@settings(max_examples=40, deadline=None)
@given(
    policy=st.sampled_from(["hearth", "random", "longest-match", "oracle"]),
    gone=st.lists(GONE, max_size=4, unique_by=lambda fault: fault.node),
    splits=st.lists(SPLITS, max_size=2),
    asked=st.lists(ASKED, min_size=1, max_size=20),
    loss=st.sampled_from([0.0, 0.2]),
)
def test_every_request_ends_exactly_once_whatever_happens(
    policy: str,
    gone: list[Gone],
    splits: list[Split],
    asked: list[tuple[int, int, int, int]],
    loss: float,
) -> None:
    """And who stays is answered, for there is always oneself."""
    sessions = [
        question(at_s, origin, range(group, group + 200), answer)
        for at_s, origin, group, answer in sorted(asked)
    ]
    faults: list[Fault] = sorted([*gone, *splits], key=lambda fault: fault.at_s)
    expected = [
        number
        for number, session in enumerate(sessions, 1)
        if not any(g.node == session.origin and g.at_s < session.at_s < g.back_s for g in gone)
    ]
    found = outcomes(
        sessions, policy, nodes=NODES, links=Links(jitter=0.1, loss=loss), faults=faults
    )
    assert sorted(outcome.request for outcome in found) == expected
    died = {fault.node for fault in gone}
    assert all(outcome.origin in died for outcome in found if outcome.failed)
    again = outcomes(
        sessions, policy, nodes=NODES, links=Links(jitter=0.1, loss=loss), faults=faults
    )
    assert again == found
