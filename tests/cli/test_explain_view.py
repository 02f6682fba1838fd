"""An explanation on an ordinary terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from cli.explain_view import explanation_view, list_view
from tests.cli.fake_node import EXPLANATION, GONE_ID, OVERVIEW


def lines(view: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def shown(**changes: Any) -> list[str]:
    return lines(explanation_view({**EXPLANATION, **changes}))


def test_the_whole_story_fits_an_ordinary_terminal() -> None:
    told = shown()
    assert max(map(len, told)) <= 80
    heads = ["node", "cost", "rtt", "wait", "prefill", "decode", "later", "cached", "summary"]
    table = next(number for number, line in enumerate(told) if line.split() == heads)
    assert told[table + 1].split() == [
        *("→", "carl", "900", "ms", "3", "ms", "40", "ms", "100", "ms", "×1.2"),
        *("0", "ms", "0", "ms", "640", "0", "s", "old"),
    ]
    assert told[table + 2].split()[:4] == ["laptop", "(this", "node)", "8.9"]
    assert told[table + 2].split()[-1] == "exact"
    text = " ".join(told)
    for part in (
        "asked    12.0 s ago, by a client of this node",
        "carl was chosen after 1 ms: carl has 640 of 650",
        "cost = rtt + wait + alpha × prefill + decode + later · 17 dearer nodes not shown",
        "It came to nothing: a friend's node has 32 requests of yours open",
        "bea was chosen after 10 ms",
        "blind: no peer's summary could be used",
        "Tokenizes unlike this node, so its cache was not counted: bea",
        "served by    bea, forwarded, 1 hop",
        "cached       639 of 650 prompt tokens, 0 expected",
        "first token  84 ms, 6.5 s expected",
        "times        queue 0 ms · prefill 23 ms · decode 1.2 s · total 1.3 s",
    ):
        assert part in text


def test_a_first_token_from_before_the_last_choice_is_not_held_against_it() -> None:
    told = shown(actual={**EXPLANATION["actual"], "route": "failed-over"})
    assert "first token  84 ms" in told


def test_parts_that_cost_nothing_take_no_column() -> None:
    only = EXPLANATION["decisions"][1]
    told = shown(decisions=[only])
    assert any(line.split()[:5] == ["node", "cost", "rtt", "wait", "prefill"] for line in told)
    assert not any("decode" in line for line in told if "cost" in line)


@pytest.mark.parametrize(
    ("changes", "ending"),
    [
        ({"state": "open"}, "It is not answered yet."),
        ({"state": "cancelled"}, "Whoever asked hung up before the end."),
        (
            {"state": "failed", "error": {"code": "no-route", "message": "no node\x1b[2J"}},
            "It failed: no node[2J",
        ),
        ({"state": "of a newer node"}, "What became of it is not known."),
    ],
)
def test_how_a_request_without_an_answer_ended(changes: dict[str, Any], ending: str) -> None:
    assert shown(**changes, actual=None)[-1] == ending


def test_a_request_of_a_peer_names_it() -> None:
    told = shown(asked_by="12D3KooWabcdefgh", asked_by_name="ca\x1brl")
    assert "asked    12.0 s ago, by carl" in told


def test_who_passed_a_request_on_is_named() -> None:
    actual = {**EXPLANATION["actual"], "served_by": GONE_ID, "served_by_name": "carl", "hops": 2}
    assert "served by    carl, forwarded, 2 hops, passed on by bea" in shown(actual=actual)


def test_the_list_is_short_and_says_so() -> None:
    told = lines(list_view([OVERVIEW] * 23))
    assert len(told) == 1 + 20 + 1
    heads = ["request", "age", "by", "served", "by", "how", "cached", "expected", "ttft"]
    assert told[0].split() == heads
    assert told[-1] == "and 3 older ones: --json lists them"
    assert max(map(len, told)) <= 80
    assert lines(list_view([])) == ["No requests since this node started."]


def test_open_requests_are_listed_too() -> None:
    unknown = dict.fromkeys(
        ("served_by", "served_by_name", "route", "prompt_tokens", "cached_tokens", "ttft_ms")
    )
    _, row = lines(list_view([{**OVERVIEW, **unknown, "state": "open"}]))
    assert row.split() == ["5f0c7a1e", "12.0", "s", "you", "open", "0"]
