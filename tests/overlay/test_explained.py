"""Explanations as objects of JSON, whatever became of their requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from overlay.errors import NoRoute
from overlay.explained import explained, overview
from overlay.forwarding.explanations import Explanation
from overlay.identity.peer_id import PeerId
from tests.overlay.forwarding.world import World

RID = b"r" * 16
TOKENS = tuple(range(640))
PROMPT = " ".join(map(str, TOKENS))


def name_of(peer: PeerId) -> str:
    return f"n{peer[0]}"


def forwarded() -> tuple[World, Explanation]:
    world = World(2)
    world.warm(1, TOKENS)
    world.submit(0, RID, PROMPT)
    return world, world.node(0).forwarder.explanations.find(RID.hex())


def of(explanation: Explanation, now: float) -> dict[str, Any]:
    told = explained(explanation, name_of, now)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    return told


def test_an_answer_that_was_forwarded() -> None:
    world, explanation = forwarded()
    asked_at = world.now
    world.run()
    told = of(explanation, asked_at + 3)
    (decision,) = told["decisions"]
    warm, cold = decision["candidates"]
    assert (told["request_id"], told["age_s"], told["asked_by"]) == (RID.hex(), 3.0, None)
    assert (decision["choice_name"], warm["name"], warm["match_tokens"]) == ("n2", "n2", 640)
    assert (warm["summary_age_s"], cold["summary_age_s"]) == (0.0, None)
    assert (warm["self"], cold["self"]) == (False, True)
    assert decision["reason"].startswith("n2 has 640 of 640 prompt tokens cached and costs ")
    # The toy engine never finds anything cached, though its summary says so.
    assert told["actual"]["match_error_tokens"] == -640
    # A round trip of 1 ms, and one token at 100 tokens a second.
    assert told["actual"]["predicted_ttft_ms"] == 11.0
    assert told["actual"]["ttft_ms"] == 20.0
    short = overview(explanation, name_of, asked_at + 3)
    assert json.loads(json.dumps(short, allow_nan=False)) == short
    assert {name: short[name] for name in ("served_by_name", "estimated_match", "ttft_ms")} == {
        "served_by_name": "n2",
        "estimated_match": 640,
        "ttft_ms": 20.0,
    }


def test_a_request_that_is_open() -> None:
    world, explanation = forwarded()
    told = of(explanation, world.now)
    assert (told["state"], told["actual"], told["error"]) == ("open", None, None)
    assert overview(explanation, name_of, world.now)["served_by"] is None


@pytest.mark.parametrize("asked_by", [None, PeerId(b"p" * 32)])
def test_a_request_that_nobody_could_take(asked_by: PeerId | None) -> None:
    explanation = Explanation(RID, "toy", asked_by, 1.0)
    explanation.failed(NoRoute("nobody serves it"))
    told = of(explanation, 1.0)
    assert told["asked_by_name"] == (None if asked_by is None else "n112")
    assert (told["state"], told["decisions"]) == ("failed", [])
    assert told["error"] == {"code": "no-route", "message": "nobody serves it"}
    assert overview(explanation, name_of, 1.0)["estimated_match"] is None
