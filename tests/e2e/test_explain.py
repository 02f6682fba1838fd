"""Why a request went there, asked of real nodes: by command, by HTTP, and in the reply."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.nodes import RunningNode, command, ending, hearth, token_of, until, up

pytestmark = [pytest.mark.demo, pytest.mark.timeout(300)]

SYSTEM = " ".join(f"Rule {number}: answer question {number} kindly." for number in range(1, 61))


@pytest.fixture
async def nodes(tmp_path: Path, demo_model: Path) -> AsyncIterator[list[RunningNode]]:
    """Ann, who is warm, and Bob, who knows it."""
    ann, bob = (RunningNode(tmp_path / name, name) for name in ("ann", "bob"))
    async with ending([ann, bob]):
        await ann.start()
        await command(bob, "join", await token_of(ann))
        await bob.start()
        await up(bob, "ann")
        first = await ann.chat("Hi.", system=SYSTEM, hearth={"route": "local"})

        async def bob_knows() -> bool:
            peer = await bob.peer("ann")
            return bool(peer and peer["cached_tokens"] >= first["usage"]["prompt_tokens"] - 64)

        await until(bob_knows, "Bob's summary of Ann")
        yield [ann, bob]


def sample(metrics: str, name: str) -> float:
    return float(next(line for line in metrics.splitlines() if line.startswith(name)).split()[-1])


async def test_a_forwarded_request_explains_itself(nodes: list[RunningNode]) -> None:
    ann, bob = nodes
    assert [peer["tokenizes_unlike"] for peer in (await bob.status())["peers"]] == [[]]
    reply = await bob.chat("And question 7?", system=SYSTEM, hearth={"explain": True})
    told: dict[str, Any] = reply["hearth"]["explanation"]
    (decision,) = told["decisions"]
    by_name = {each["name"]: each for each in decision["candidates"]}
    assert decision["choice_name"] == "ann"
    assert by_name["ann"]["match_tokens"] > 400
    assert by_name["bob"]["match_tokens"] == 0
    assert by_name["ann"]["cost_ms"] < by_name["bob"]["cost_ms"]
    for each in by_name.values():
        parts = each["rtt_ms"] + each["wait_ms"] + each["decode_ms"] + each["later_ms"]
        whole = parts + each["alpha"] * each["prefill_ms"]
        # Costs are told to a tenth of a millisecond, alpha to a thousandth.
        assert each["cost_ms"] == pytest.approx(whole, rel=0.01, abs=1)
    cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert told["actual"]["cached_tokens"] == cached
    assert told["actual"]["match_error_tokens"] == cached - by_name["ann"]["match_tokens"]

    # The command says the same, on both sides, by the id that the client sees.
    explained = await hearth("explain", reply["id"], "--home", str(bob.home), "--json")
    assert explained.code == 0, explained.err
    assert {**explained.json, "age_s": 0} == {**told, "age_s": 0}
    latest = await hearth("explain", "--home", str(bob.home))
    assert "ann was chosen" in latest.out
    assert f"{cached:,} of {reply['usage']['prompt_tokens']:,} prompt tokens" in latest.out
    served = await hearth("explain", reply["id"][:20], "--home", str(ann.home), "--json")
    assert served.json["asked_by_name"] == "bob"
    assert served.json["decisions"][0]["candidates"][0]["self"]
    listed = await hearth("explain", "--list", "--home", str(ann.home), "--json")
    assert [each["asked_by_name"] for each in listed.json] == [None, "bob"]
    unknown = await hearth("explain", "ffff", "--home", str(ann.home), "--json")
    assert (unknown.code, unknown.json["error"]["code"]) == (1, "request-unknown")

    metrics = (await bob.http.get("/metrics")).text
    assert sample(metrics, 'hearth_decisions_total{asked_by="client",choice="peer"}') == 1
    assert sample(metrics, 'hearth_match_estimates_total{outcome="right"}') == 1
    assert sample(metrics, "hearth_ttft_ratio_count") == 1
    assert sample(metrics, "hearth_tokenization_mismatches") == 0
