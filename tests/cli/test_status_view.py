"""The mesh on an ordinary terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cli.status_view import status_view
from tests.cli.fake_node import STATUS
from tests.support.recorder import PEER_ID

SPILLED = {
    "spilled_tokens": 24_192,
    "spilled_bytes": 297_271_296,
    "disk_tokens": 1,
    "disk_bytes": 12_288,
}


def shown(**changes: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(status_view({**STATUS, **changes}))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def row(lines: list[str], title: str) -> str | None:
    """What stands beside the title, in one line."""
    found = [line for line in lines if line.startswith(f"{title} ")]
    return found[0].removeprefix(title).strip() if found else None


def test_tiers_are_shown_once_they_hold_something() -> None:
    lines = shown(cache={**STATUS["cache"], **SPILLED})
    assert row(lines, "spilled") == "24,192 tokens in RAM (297.3 MB) · 1 token on disk (12.3 kB)"
    assert row(shown(), "spilled") is None
    only_disk = {**STATUS["cache"], **SPILLED, "spilled_tokens": 0}
    assert row(shown(cache=only_disk), "spilled") == "1 token on disk (12.3 kB)"


def test_preemptions_are_shown_once_there_were_any() -> None:
    assert row(shown(), "requests") == "1 running · 0 queued · 12 served"
    told = row(shown(requests={**STATUS["requests"], "preempted": 3}), "requests")
    assert told == "1 running · 0 queued · 12 served · 3 preempted"


def test_routes_are_shown_once_there_were_any() -> None:
    assert row(shown(routing={"decisions": {"self": 0, "peer": 0}}), "routes") is None
    routing = {"decisions": {"self": 1200, "peer": 34}}
    assert row(shown(routing=routing), "routes") == "1,200 computed here · 34 sent on"
    told = shown(routing=routing, requests={**STATUS["requests"], "blind_decisions": 2})
    assert row(told, "routes") == "1,200 computed here · 34 sent on · 2 blind"


def test_a_pause_is_shown_here_and_at_peers() -> None:
    assert row(shown(), "lending") is None
    paused = {
        "paused": True,
        "paused_since": "2030-01-01T12:00:00+00:00",
        "open_guest_requests": 1,
    }
    told = row(shown(lending=paused), "lending")
    assert told is not None
    assert told.startswith("paused since 20")
    assert told.endswith("· 1 under way")
    *others, bea = STATUS["peers"]
    (line,) = [line for line in shown(peers=[*others, {**bea, "paused": True}]) if "bea" in line]
    assert "paused" in line
    assert "SmolLM2" not in line


def test_the_terms_for_guests_are_shown_once_there_are_any() -> None:
    nothing: dict[str, object] = {
        "paused": False,
        "guest_requests": None,
        "refused": {},
        "open_guest_requests": 2,
    }
    assert row(shown(lending=nothing), "lending") is None
    terms = {
        "guest_requests": 1,
        "guest_tokens_per_minute": 20_000,
        "private": ["mine"],
        "refused": {"overloaded": 2, "paused": 1},
    }
    told = " ".join(shown(lending=terms))
    assert "1 guest request at one time · 20,000 tokens a minute each · private:" in told
    assert "3 refused" in told


def test_a_relayed_link_names_the_relay() -> None:
    carl, bea = STATUS["peers"]
    for relay, name in ((carl["peer_id"], "carl"), (PEER_ID, "12D3…4oWM")):
        peers = [carl, {**bea, "link": "incoming", "relay": relay}]
        (line,) = [line for line in shown(peers=peers) if line.startswith("bea")]
        assert line.endswith(f"relayed via {name}")


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        (
            {"external": "/ip4/198.51.100.7/tcp/1", "failure": None},
            "passes /ip4/198.51.100.7/tcp/1",
        ),
        ({"external": None, "failure": "it is\x1b off"}, "passes nothing on: it is off"),
        ({"external": None, "failure": None}, "is being looked for"),
    ],
)
def test_what_the_router_does_is_told(mapping: dict[str, str | None], told: str) -> None:
    line = row(shown(port_mapping=mapping), "router")
    assert line is not None
    assert line.startswith(told)
    assert row(shown(port_mapping=None), "router") is None


def test_a_slowed_peer_is_shown() -> None:
    *others, bea = STATUS["peers"]
    (line,) = [line for line in shown(peers=[*others, {**bea, "slowed": True}]) if "bea" in line]
    assert line.endswith(", slowed")


def test_a_banned_peer_is_named_with_the_reason() -> None:
    *others, bea = STATUS["peers"]
    ban = {"until": "2030-01-01T12:00:00+00:00", "reason": "it sent too much"}
    said = " ".join(shown(peers=[*others, {**bea, "banned": ban}]))
    assert "bea is banned until 20" in said
    assert ": it sent too much." in said
    assert "banned" not in " ".join(shown())


def test_a_peer_that_tokenizes_unlike_us_is_pointed_out() -> None:
    *others, bea = STATUS["peers"]
    said = " ".join(shown(peers=[*others, {**bea, "tokenizes_unlike": ["demo"]}]))
    assert "bea tokenizes demo unlike this node" in said
    assert "tokenizes" not in " ".join(shown())


def test_a_full_view_fits_an_ordinary_terminal() -> None:
    cache = {**STATUS["cache"], **SPILLED, "prompt_tokens": 9_999_999, "cells_used": 16_000}
    routing = {"decisions": {"self": 9_999_999, "peer": 9_999_999}}
    lines = shown(
        cache={**cache, "cells_total": 16_384, "spilled_tokens": 10_000_000}, routing=routing
    )
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_friends_who_are_still_away_are_named() -> None:
    alone = shown(peers=[], absent=[])
    assert alone[-1] == "No peers yet. Invite a friend with: hearth invite"
    away = shown(peers=[], absent=[{"peer_id": PEER_ID, "name": "bea"}])
    assert away[-1] == "Not heard of since this node started: bea"
