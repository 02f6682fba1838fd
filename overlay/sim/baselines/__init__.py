"""The rivals that Hearth is measured against, each as its authors describe it.

A rival sits where Hearth's own policy sits, in every node, and chooses at the origin. What it may
know beyond that is in its `Rival` entry. Decentralised ones read the candidates, so what gossip
told; central ones read the `Fleet`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.routing.policy import Policy
from overlay.sim.baselines.balancing import LeastLoaded, LocalOnly, PowerOfTwo, Random, RoundRobin
from overlay.sim.baselines.bounded_hash import BoundedHash, Ring
from overlay.sim.baselines.central import Central, Router, through
from overlay.sim.baselines.dynamo import Dynamo
from overlay.sim.baselines.gorgo import Gorgo
from overlay.sim.baselines.longest_match import STAY_RATIO, LongestMatch
from overlay.sim.baselines.oracle import PRICE, Oracle
from overlay.sim.baselines.rival import Rival
from overlay.sim.baselines.sglang import Sglang
from overlay.sim.fleet import Fleet

__all__ = ["REGISTRY", "Central", "Rival"]

_Nodes = Callable[[PeerId], Policy]
_Begin = Callable[[Fleet, random.Random], _Nodes]


def _alone(make: Callable[[random.Random], Policy]) -> _Begin:
    """Each node has its own policy, which needs nothing but chance."""
    return lambda _fleet, rng: lambda _peer: make(rng)


def _power_of_two(fleet: Fleet, rng: random.Random) -> _Nodes:
    return lambda _peer: PowerOfTwo(fleet, rng)


def _bounded_hash(fleet: Fleet, rng: random.Random) -> _Nodes:
    ring = Ring(fleet.peers)
    return lambda _peer: BoundedHash(ring, rng)


def _behind(make: Callable[[Fleet, random.Random], Router]) -> _Begin:
    """All nodes are behind one router."""
    return lambda fleet, rng: through(make(fleet, rng))


_RIVALS: Final = (
    Rival(
        "local-only",
        "every node serves its own users, as without a mesh",
        knows="nothing",
        policies=_alone(LocalOnly),
    ),
    Rival(
        "random",
        "any node, all with the same chance",
        knows="nothing",
        policies=_alone(Random),
    ),
    Rival(
        "round-robin",
        "one node after the other, counted by each origin",
        knows="nothing",
        policies=_alone(RoundRobin),
    ),
    Rival(
        "least-loaded",
        "the node with the fewest requests, by gossip",
        knows="load",
        policies=_alone(LeastLoaded),
    ),
    Rival(
        "power-of-two",
        "the less loaded of two random nodes, asked for free (Mitzenmacher 2001)",
        knows="truth",
        policies=_power_of_two,
    ),
    Rival(
        "bounded-hash",
        "consistent hashing of the first 256 tokens, no node over 1.25 times the mean load "
        "(Mirrokni, Thorup, Zadimoghaddam 2018)",
        knows="load",
        policies=_bounded_hash,
    ),
    Rival(
        "longest-match",
        "the longest match by gossiped summaries (Nair, Saini 2026, arXiv 2606.17059)",
        knows="summaries",
        policies=_alone(LongestMatch),
    ),
    Rival(
        "longest-match-threshold",
        "the longest match, unless half of the prompt is cached here (Nair, Saini 2026)",
        knows="summaries",
        policies=_alone(lambda rng: LongestMatch(rng, STAY_RATIO)),
    ),
    Rival(
        "sglang",
        "the prefix tree of what was sent where, or the idlest worker (sglang-router 0.3.2)",
        knows="truth",
        policies=_behind(lambda fleet, _rng: Sglang(fleet)),
    ),
    Rival(
        "dynamo",
        "the fewest blocks to compute and to hold (NVIDIA Dynamo's KV router)",
        knows="truth",
        policies=_behind(Dynamo),
    ),
    Rival(
        "gorgo",
        "the least of network, prefill and queue (GORGO 2026, arXiv 2602.11688)",
        knows="truth",
        policies=_behind(Gorgo),
    ),
    Rival(
        "oracle",
        "the soonest first token, knowing every queue and cache",
        knows="truth",
        policies=_behind(Oracle),
    ),
    Rival(
        "oracle-alpha",
        "as oracle, but work on a machine is priced by how many share it",
        knows="truth",
        policies=_behind(lambda fleet, rng: Oracle(fleet, rng, PRICE)),
    ),
)

#: By name, in the order in which tables and plots show them.
REGISTRY: Final[dict[str, Rival]] = {rival.name: rival for rival in _RIVALS}
