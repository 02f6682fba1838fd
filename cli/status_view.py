"""The mesh as tables, from the object of ``/mesh/status``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.fitting import FittingTable, facts
from cli.members import known_names, named
from cli.mesh_state import is_up, model_names, peer_name
from cli.text import count, duration, local_time, printable, short_peer, size
from overlay.limits import RENEWAL_S

_THROWN_OUT_SHOWN: Final = 3


def status_view(status: Mapping[str, Any]) -> RenderableType:
    """This node's lines, the table of peers, cache and requests."""
    parts: list[RenderableType] = [_own(status), Text()]
    peers = status.get("peers") or []
    if peers:
        parts.append(_peer_table(peers))
        parts += [Text(line, style="yellow") for line in (*_bans(peers), *_mismatches(peers))]
    if absent := status.get("absent"):
        names = ", ".join(peer_name(peer) for peer in absent)
        parts.append(Text(f"Not heard of since this node started: {names}", style="dim"))
    elif not peers:
        parts.append(Text("No peers yet. Invite a friend with: hearth invite", style="dim"))
    return Group(*parts)


def _own(status: Mapping[str, Any]) -> Table:
    grid = facts()
    name = printable(str(status.get("name") or "?"))
    peer = short_peer(str(status.get("peer_id") or ""))
    grid.add_row("node", Text.assemble((name, "bold"), f" ({peer})"))
    grid.add_row("mesh", Text(printable(str(status.get("mesh_id") or ""))))
    if ending := _ending(status.get("membership_ends")):
        grid.add_row("member", Text(ending, style="yellow"))
    if revoked := status.get("revoked"):
        grid.add_row("revoked", Text(_own_end(revoked, status), style="red"))
    elif away := _thrown_out(status):
        grid.add_row("thrown out", Text(", ".join(away)))
    grid.add_row("models", Text(", ".join(model_names(status)) or "none"))
    grid.add_row("api", Text(printable(str(status.get("api") or ""))))
    grid.add_row("listen", Text(_listen(status.get("listen"))))
    if mapping := status.get("port_mapping"):
        grid.add_row("router", _router(mapping))
    grid.add_row("cache", Text(" · ".join(_cache_parts(status.get("cache") or {}))))
    if spilled := _spilled_parts(status.get("cache") or {}):
        grid.add_row("spilled", Text(" · ".join(spilled)))
    grid.add_row("requests", Text(" · ".join(_request_parts(status.get("requests") or {}))))
    if lent := _lending_parts(status.get("lending") or {}):
        paused = "yellow" if (status.get("lending") or {}).get("paused") else ""
        grid.add_row("lending", Text(" · ".join(lent), style=paused))
    if routes := _route_parts(status):
        grid.add_row("routes", Text(" · ".join(routes)))
    return grid


def _listen(listen: Any) -> str:
    addresses = [listen] if isinstance(listen, str) else listen or []
    return ", ".join(printable(str(address)) for address in addresses)


def _router(mapping: Mapping[str, Any]) -> Text:
    if external := mapping.get("external"):
        return Text(f"passes {printable(str(external))} on to this node")
    if failure := mapping.get("failure"):
        return Text(f"passes nothing on: {printable(str(failure))}", style="yellow")
    return Text("is being looked for", style="dim")


def _ending(ends: Any) -> str:
    """Of a membership that ends soon, or has ended; else empty."""
    if ends is None:
        return ""
    moment = datetime.fromisoformat(str(ends))
    if (moment - datetime.now(UTC)).total_seconds() > RENEWAL_S:
        return ""
    return f"until {_day(ends)}: ask for a new invite, then hearth join TOKEN"


def _own_end(revoked: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    by, at = str(revoked.get("by")), _day(revoked.get("at"))
    who = named(by, known_names(status, ()).get(by, ""))
    return f"by {who} on {at}: ask for a new invite, then hearth join TOKEN"


def _thrown_out(status: Mapping[str, Any]) -> list[str]:
    """Whose membership was revoked, the latest ones by PeerId and day; not who is back."""
    members = {each.get("peer_id") for each in (status, *(status.get("peers") or []))}
    away = [e for e in status.get("revocations") or [] if e.get("peer_id") not in members]
    latest = sorted(away, key=lambda each: str(each.get("at")), reverse=True)
    parts = [
        f"{short_peer(str(each.get('peer_id')))} on {_day(each.get('at'))}"
        for each in latest[:_THROWN_OUT_SHOWN]
    ]
    if len(latest) > _THROWN_OUT_SHOWN:
        parts.append(f"{len(latest) - _THROWN_OUT_SHOWN:,} more")
    return parts


def _day(moment: Any) -> str:
    return f"{datetime.fromisoformat(str(moment)).astimezone():%Y-%m-%d}"


def _cache_parts(cache: Mapping[str, int]) -> list[str]:
    """How full the cache is, and what share of all prompt tokens it spared."""
    if not cache.get("cells_total"):
        return ["none"]
    parts = [f"{cache.get('cells_used', 0):,} of {cache['cells_total']:,} cells"]
    parts.append(count(cache.get("summary_blocks", 0), "block"))
    if prompt_tokens := cache.get("prompt_tokens", 0):
        share = cache.get("cached_tokens", 0) / prompt_tokens
        parts.append(f"{share:.0%} of {prompt_tokens:,} prompt tokens were cached")
    return parts


def _spilled_parts(cache: Mapping[str, int]) -> list[str]:
    """What left the KV cache and can come back; empty if nothing did."""
    places = {"in RAM": "spilled", "on disk": "disk"}
    return [
        f"{count(tokens, 'token')} {place} ({size(cache.get(f'{name}_bytes', 0))})"
        for place, name in places.items()
        if (tokens := cache.get(f"{name}_tokens", 0))
    ]


def _request_parts(requests: Mapping[str, int]) -> list[str]:
    """What the engines do now, and have done."""
    words = ["running", "queued", "served"]
    if requests.get("preempted"):
        words.append("preempted")
    return [f"{requests.get(word, 0):,} {word}" for word in words]


def _lending_parts(lending: Mapping[str, Any]) -> list[str]:
    """On what terms guests are served; empty if nothing keeps them away."""
    parts = []
    if lending.get("paused"):
        parts.append(f"paused since {local_time(str(lending.get('paused_since')))}")
    if (requests := lending.get("guest_requests")) is not None:
        parts.append(f"{count(requests, 'guest request')} at one time")
    if per_minute := lending.get("guest_tokens_per_minute"):
        parts.append(f"{per_minute:,} tokens a minute each")
    if private := lending.get("private"):
        parts.append(f"private: {', '.join(printable(str(name)) for name in private)}")
    if parts and (still_open := lending.get("open_guest_requests", 0)):
        parts.append(f"{still_open:,} under way")
    if refused := sum((lending.get("refused") or {}).values()):
        parts.append(f"{refused:,} refused")
    return parts


def _route_parts(status: Mapping[str, Any]) -> list[str]:
    """Where requests went from here; empty before the first one."""
    decisions = (status.get("routing") or {}).get("decisions") or {}
    if not any(decisions.values()):
        return []
    parts = [f"{decisions.get('self', 0):,} computed here", f"{decisions.get('peer', 0):,} sent on"]
    if blind := (status.get("requests") or {}).get("blind_decisions"):
        parts.append(f"{blind:,} blind")
    return parts


def _peer_table(peers: list[Mapping[str, Any]]) -> Table:
    table = FittingTable(spare=("id", "link", "models", "cached"))
    table.add_column("peer", no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column("id", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("rtt", justify="right", no_wrap=True)
    table.add_column("models")
    table.add_column("cached", justify="right", no_wrap=True)
    table.add_column("link", no_wrap=True)
    names = {str(peer.get("peer_id")): peer_name(peer) for peer in peers}
    for peer in sorted(peers, key=lambda peer: (not is_up(peer), peer_name(peer))):
        state = printable(str(peer.get("state") or "?")).upper()
        rtt_ms = peer.get("rtt_ms")
        table.add_row(
            Text(peer_name(peer), style="bold" if is_up(peer) else "dim"),
            Text(short_peer(str(peer.get("peer_id") or "?"))),
            Text(state, style="green" if is_up(peer) else "red"),
            "" if rtt_ms is None else _rtt(rtt_ms),
            Text("paused" if peer.get("paused") else ", ".join(model_names(peer)) or "none"),
            f"{peer.get('cached_tokens') or 0:,}",
            Text(_link(peer, names)),
        )
    return table


def _link(peer: Mapping[str, Any], names: Mapping[str, str]) -> str:
    link = printable(str(peer.get("link") or ""))
    if relay := peer.get("relay"):
        link = f"relayed via {names.get(str(relay)) or short_peer(str(relay))}"
    return link + ", slowed" * bool(peer.get("slowed"))


def _bans(peers: list[Mapping[str, Any]]) -> list[str]:
    """Of peers that sent too much: until when, and why."""
    return [
        f"{peer_name(peer)} is banned until {local_time(str(ban.get('until')))}: "
        f"{printable(str(ban.get('reason') or ''))}."
        for peer in peers
        if (ban := peer.get("banned"))
    ]


def _mismatches(peers: list[Mapping[str, Any]]) -> list[str]:
    """Of peers whose caches cannot be used, though they serve the same models."""
    return [
        f"{peer_name(peer)} tokenizes {printable(str(model))} unlike this node, so its cache is "
        "not used: run the same version of Hearth on both."
        for peer in peers
        for model in peer.get("tokenizes_unlike") or []
    ]


def _rtt(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else duration(milliseconds)
