"""``hearth up`` with a rival's policy, another address than its own, and few threads.

    python -m tests.bench.node_with_policy [--policy NAME] [--announce HOST:PORT] [--threads N] \\
        up --home DIR …

The rest of the node is the one that people run: what is not offered to them is put in from outside.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import cast
from unittest.mock import patch

from cli.main import hearth
from models.llama.engine import LlamaEngine
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.identity.multiaddr import Multiaddr, parse_listen
from overlay.identity.peer_id import PeerId
from overlay.routing.policy import Policy
from overlay.sim.baselines import REGISTRY
from overlay.sim.fleet import Fleet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="tests.bench.node_with_policy")
    parser.add_argument("--policy", help="Hearth's own by default")
    parser.add_argument("--announce", type=parse_listen, help="where peers are told to connect")
    parser.add_argument("--threads", type=int, help="all physical cores by default")
    options, command = parser.parse_known_args()
    with ExitStack() as replaced:
        if options.threads is not None:
            start = staticmethod(partial(LlamaEngine.start, threads=options.threads))
            replaced.enter_context(patch.object(LlamaEngine, "start", start))
        if options.announce is not None:
            announce = partial(_announced, options.announce)
            replaced.enter_context(patch("overlay.whereabouts.reachable_addresses", announce))
        if options.policy is not None:
            replaced.enter_context(under(options.policy))
        hearth(command)


@contextmanager
def under(policy: str) -> Iterator[None]:
    """Nodes that begin meanwhile decide as a rival does, and evict as if alone: to give up what a
    peer holds, too, is for those who would go and fetch it there."""
    with (
        patch("overlay.mesh.CostPolicy", partial(_rival, policy)),
        patch.object(Neighbourhood, "copies_changed", lambda self: []),
    ):
        yield


def _announced(address: Multiaddr, bound: Sequence[Multiaddr]) -> tuple[Multiaddr, ...]:
    return (address,)


def _rival(name: str, rng: random.Random) -> Policy:
    rival = REGISTRY[name]
    assert rival.knows in ("nothing", "load", "summaries"), "nodes know no more than gossip tells"
    # Of a fleet such a policy knows nothing, and of itself what it is told with each question.
    return rival.policies(cast(Fleet, None), rng)(cast(PeerId, None))


if __name__ == "__main__":
    main()
