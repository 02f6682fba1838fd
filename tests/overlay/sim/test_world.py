"""A mesh in virtual time, request by request."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from overlay.limits import REQUEST_DEADLINE_S
from overlay.sim.baselines import REGISTRY
from overlay.sim.machine import Machine
from overlay.sim.network import Links, Network, uniform
from overlay.sim.workload import Session, Turn
from overlay.sim.world import World


def world(
    sessions: list[Session], policy: str, *, nodes: int = 2, rtt_s: float = 0.02, loss: float = 0.0
) -> World:
    made = World(
        [Machine()] * nodes,
        [8192] * nodes,
        Network(uniform(nodes, rtt_s), Links(loss=loss), random.Random(1)),
        iter(sessions),
        requests=sum(len(session.turns) for session in sessions),
        rng=random.Random(2),
    )
    made.populate(REGISTRY[policy].policies(made, random.Random(3)), gossip=False)
    return made


def question(at_s: float, origin: int, prompt: Iterable[int], answer: int = 20) -> Session:
    return Session(at_s, origin, [Turn(tuple(prompt), (7,) * answer, 0.0)])


def test_the_deadline_is_kept_to_without_gossip() -> None:
    """More at once than a machine computes in that time."""
    asked = [question(0.0, 0, range(n * 3000, n * 3000 + 3000)) for n in range(60)]
    mesh = world(asked, "local-only")
    mesh.run(lambda _: None)
    failed = [outcome for outcome in mesh.outcomes if outcome.failed]
    assert 0 < len(failed) < len(asked) == len(mesh.outcomes)
    for outcome in failed:
        assert outcome.total_ms == pytest.approx(1e3 * REQUEST_DEADLINE_S)


def test_who_is_not_heard_of_is_given_up_without_gossip() -> None:
    """Nine of ten messages are lost and sent again until they come through: that takes too long."""
    asked = [question(60.0 * n, 0, range(n, n + 40)) for n in range(20)]
    mesh = world(asked, "round-robin", rtt_s=1.0, loss=0.9)
    mesh.run(lambda _: None)
    assert len(mesh.outcomes) == len(asked)
    assert not any(outcome.failed for outcome in mesh.outcomes)
    # Half of them were sent away.
    back = [o for o in mesh.outcomes if o.executor == 0 and o.total_ms > 4000]
    assert back, "computed here after all, once nobody had accepted for 4 s"
