"""What a decision tells people."""

from __future__ import annotations

import pytest

from overlay.identity.peer_id import PeerId
from overlay.routing.cost import Estimate
from overlay.routing.decision import TIE_MS, Decision

SELF, ANNA, BERT = (PeerId(bytes([n]) * 32) for n in (1, 2, 3))
NAMES = {ANNA: "anna", BERT: "bert"}


def at(peer: PeerId, cost_ms: float, match_tokens: int = 0) -> Estimate:
    return Estimate(peer, peer == SELF, cost_ms, 0.0, 0.0, cost_ms, 0.0, match_tokens, 1.0)


@pytest.mark.parametrize(
    ("choice", "estimates", "reason"),
    [
        (
            ANNA,
            [at(ANNA, 163.0, 608), at(BERT, 3000.0, 32), at(SELF, 3200.0, 64)],
            "anna has 608 of 640 prompt tokens cached and costs 163 ms; "
            "this node (64 cached) would cost 3,200 ms.",
        ),
        (
            SELF,
            [at(SELF, 100.0, 32), at(BERT, 102.0), at(ANNA, 300.0)],
            "this node has 32 of 640 prompt tokens cached and costs 100 ms; "
            "bert (0 cached) would cost 102 ms.",
        ),
        # No model here.
        (
            ANNA,
            [at(ANNA, 163.0, 32), at(BERT, 170.0, 64)],
            "anna has 32 of 640 prompt tokens cached and costs 163 ms; "
            "bert (64 cached) would cost 170 ms.",
        ),
        # Where nobody has any of it, its length may be a guess, too.
        (BERT, [at(BERT, 100.0), at(ANNA, 200.0)], "bert costs 100 ms; anna would cost 200 ms."),
        (
            SELF,
            [at(ANNA, 100.0), at(SELF, 100.0 + TIE_MS)],
            "this node costs as little as any node.",
        ),
        (
            ANNA,
            [at(ANNA, 100.0, 64), at(SELF, 100.0 + TIE_MS, 64)],
            "anna has 64 of 640 prompt tokens cached and costs as little as any node.",
        ),
        # Others that serve the model may have asked here, or refused.
        (SELF, [at(SELF, 100.0)], "no other node that serves this model can be asked."),
    ],
)
def test_the_reason_compares_with_this_node_or_else_with_the_next_best(
    choice: PeerId, estimates: list[Estimate], reason: str
) -> None:
    decision = Decision(choice, tuple(estimates), False, 640)
    assert decision.explain(NAMES.__getitem__) == reason
