"""A rival: a policy by others that the simulator can run in the place of Hearth's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from overlay.identity.peer_id import PeerId
from overlay.routing.policy import Policy
from overlay.sim.fleet import Fleet

#: What a node may know of others. "truth": what only a simulator or a central router knows.
Knows = Literal["nothing", "load", "summaries", "truth"]


@dataclass(frozen=True, slots=True)
class Rival:
    """``summary``: its idea and its source, in a line."""

    name: str
    summary: str
    knows: Knows
    #: Begins a run: gives each node its policy. Central ones share their state.
    policies: Callable[[Fleet, random.Random], Callable[[PeerId], Policy]]
