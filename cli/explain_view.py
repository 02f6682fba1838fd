"""A request's explanation as tables, from the objects of ``/mesh/explanations``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.fitting import FittingTable, facts
from cli.text import count, duration, printable, short_peer, short_request

_TIMES = ("queue", "prefill", "decode", "total")
#: Rows of the overview; ``--json`` has them all.
_LISTED_MAX = 20


def explanation_view(told: Mapping[str, Any]) -> RenderableType:
    """What was asked, each decision with its candidates, and what came of it."""
    parts: list[RenderableType] = [_head(told)]
    for decision in told.get("decisions") or []:
        parts += [Text(), _choice(decision), _candidates(decision)]
        if unlike := _unlike(decision):
            parts.append(Text(unlike, style="yellow"))
        if error := decision.get("error"):
            failed = f"It came to nothing: {printable(str(error.get('message')))}"
            parts.append(Text(failed, style="yellow"))
    parts += [Text(), _outcome(told)]
    return Group(*parts)


def list_view(listed: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line for each request, latest first."""
    if not listed:
        return Text("No requests since this node started.", style="dim")
    table = FittingTable(spare=("expected", "by", "ttft", "age", "how"))
    for title in ("request", "age", "by", "served by", "how"):
        table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=20)
    for title in ("cached", "expected", "ttft"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in listed[:_LISTED_MAX]:
        asked_by = each.get("asked_by")
        cached, prompt = each.get("cached_tokens"), each.get("prompt_tokens")
        ttft_ms, expected = each.get("ttft_ms"), each.get("estimated_match")
        table.add_row(
            Text(short_request(str(each.get("request_id") or "?"))),
            duration(1000 * (each.get("age_s") or 0)),
            Text(_name(each.get("asked_by_name"), asked_by) if asked_by else "you"),
            Text(_name(each.get("served_by_name"), each.get("served_by"))),
            Text(printable(str(each.get("route") or each.get("state") or "?"))),
            "" if cached is None else f"{cached:,} of {prompt or 0:,}",
            "" if expected is None else f"{expected:,}",
            "" if ttft_ms is None else duration(ttft_ms),
        )
    if len(listed) <= _LISTED_MAX:
        return table
    more = f"and {len(listed) - _LISTED_MAX:,} older ones: --json lists them"
    return Group(table, Text(more, style="dim"))


def _head(told: Mapping[str, Any]) -> Table:
    grid = facts()
    asked_by = told.get("asked_by")
    asker = _name(told.get("asked_by_name"), asked_by) if asked_by else "a client of this node"
    asked = f"{duration(1000 * (told.get('age_s') or 0))} ago, by {asker}"
    grid.add_row("request", Text(printable(str(told.get("request_id") or "?"))))
    grid.add_row("model", Text(printable(str(told.get("model") or ""))))
    grid.add_row("asked", Text(asked))
    return grid


def _choice(decision: Mapping[str, Any]) -> Text:
    name = _name(decision.get("choice_name"), decision.get("choice"))
    after = duration(decision.get("after_ms") or 0)
    reason = printable(str(decision.get("reason") or ""))
    return Text.assemble((f"{name} was chosen", "bold"), f" after {after}: {reason}")


def _candidates(decision: Mapping[str, Any]) -> RenderableType:
    table = FittingTable(spare=("summary", "later", "decode", "rtt", "wait", "prefill"), gap=1)
    table.add_column("", no_wrap=True)
    table.add_column("node", overflow="ellipsis", no_wrap=True, max_width=24)
    candidates = decision.get("candidates") or []
    seldom = [part for part in ("decode", "later") if any(e.get(f"{part}_ms") for e in candidates)]
    for title in ("cost", "rtt", "wait", "prefill", *seldom, "cached", "summary"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in candidates:
        chosen = each.get("peer_id") == decision.get("choice")
        name = _name(each.get("name"), each.get("peer_id"))
        age_s = each.get("summary_age_s")
        table.add_row(
            "→" if chosen else "",
            Text(f"{name} (this node)" if each.get("self") else name, "bold" if chosen else ""),
            *(duration(each.get(f"{part}_ms") or 0) for part in ("cost", "rtt", "wait")),
            f"{duration(each.get('prefill_ms') or 0)} ×{each.get('alpha') or 1:.1f}",
            *(duration(each.get(f"{part}_ms") or 0) for part in seldom),
            f"{each.get('match_tokens') or 0:,}",
            "exact" if each.get("self") else "none" if age_s is None else _age(age_s),
        )
    notes = [" + ".join(["cost = rtt + wait + alpha × prefill", *seldom])]
    more = (decision.get("considered") or 0) - len(candidates)
    if more > 0:
        notes.append(f"{count(more, 'dearer node')} not shown")
    if prefetch_tokens := decision.get("prefetch_tokens"):
        notes.append(f"{prefetch_tokens:,} tokens are computed here afterwards, for the next time")
    if decision.get("blind"):
        notes.append("blind: no peer's summary could be used")
    return Group(table, Text(" · ".join(notes), style="dim"))


def _unlike(decision: Mapping[str, Any]) -> str:
    names = [
        _name(each.get("name"), each.get("peer_id"))
        for each in decision.get("candidates") or []
        if each.get("tokenizes_unlike")
    ]
    if not names:
        return ""
    return f"Tokenizes unlike this node, so its cache was not counted: {', '.join(names)}"


def _outcome(told: Mapping[str, Any]) -> RenderableType:
    actual = told.get("actual")
    if not actual:
        error = told.get("error") or {}
        ending = {
            "open": "It is not answered yet.",
            "cancelled": "Whoever asked hung up before the end.",
            "failed": f"It failed: {printable(str(error.get('message') or 'nobody knows why'))}",
        }
        return Text(ending.get(str(told.get("state")), "What became of it is not known."))
    grid = facts()
    grid.add_row("served by", Text(_served_by(told, actual)))
    cached = f"{actual.get('cached_tokens') or 0:,} of {actual.get('prompt_tokens') or 0:,}"
    if (expected := actual.get("estimated_match")) is not None:
        cached += f" prompt tokens, {expected:,} expected"
    grid.add_row("cached", cached)
    first = duration(actual.get("ttft_ms") or 0)
    # The last choice's guess says nothing of a first token that came from the one before.
    failed_over = actual.get("route") == "failed-over"
    if (predicted_ms := actual.get("predicted_ttft_ms")) is not None and not failed_over:
        first += f", {duration(predicted_ms)} expected"
    grid.add_row("first token", first)
    times = [f"{part} {duration(actual.get(f'{part}_ms') or 0)}" for part in _TIMES]
    grid.add_row("times", " · ".join(times))
    return grid


def _served_by(told: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    route = printable(str(actual.get("route") or "?")).replace("-", " ")
    parts = [_name(actual.get("served_by_name"), actual.get("served_by")), route]
    if hops := actual.get("hops"):
        parts.append(count(hops, "hop"))
    *_, last = told.get("decisions") or [{}]
    if last.get("choice") not in (None, actual.get("served_by")):
        parts.append(f"passed on by {_name(last.get('choice_name'), last.get('choice'))}")
    return ", ".join(parts)


def _name(name: Any, peer_id: Any) -> str:
    return printable(str(name or "")) or short_peer(str(peer_id or ""))


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s old" if seconds < 120 else f"{seconds / 60:.0f} min old"
