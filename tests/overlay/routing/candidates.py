"""Candidates of all kinds."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from overlay.identity.peer_id import PeerId
from overlay.routing.cost import Candidate

PROMPT = 640


def measured_candidates(
    peers: st.SearchStrategy[PeerId], *, selves: bool
) -> st.SearchStrategy[Candidate]:
    """For a prompt of PROMPT tokens; ``selves``: the deciding node among them.

    All fields are given: of a NamedTuple hypothesis makes up what is not, whatever its default.
    """
    return st.builds(
        Candidate,
        peer=peers,
        is_self=st.booleans() if selves else st.just(False),
        rtt_ms=st.floats(0, 1e4),
        match_tokens=st.integers(0, 2 * PROMPT),
        summary_age_s=st.floats(0, 1e4) | st.just(math.inf),
        prefill_rate=st.floats(1, 1e5),
        decode_rate=st.floats(1, 1e3),
        pending_prefill_tokens=st.integers(0, 10_000),
        running=st.integers(0, 8),
        queued=st.integers(0, 8),
        lost_share=st.just(0.0),
        pending_guest_tokens=st.just(0),
        late_ms=st.floats(0, 1e6),
    )
