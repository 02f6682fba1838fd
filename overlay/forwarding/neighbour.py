"""What is known of one peer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from overlay.gossip.records import Card, Load
from overlay.identity.branches import Lineage


@dataclass(slots=True)
class Neighbour:
    """One peer, as its records and our link tell.

    ``rtt_ms`` None: no link, or none that is measured yet, so no candidate.
    """

    linked: bool = False
    #: As it introduced itself on a link; its card, once here, tells more.
    name: str = ""
    #: Who let it in, as it proved on a link.
    lineage: Lineage = ()
    card: Card | None = None
    load: Load | None = None
    rtt_ms: float | None = None
    #: Since when it may soon have a link that is measured: one came up, or the last one broke.
    awaited_since: float = -math.inf
    summary_at: float = 0.0
    #: Tokens that it has yet to compute, on average.
    work: float = 0.0
