"""The line under an answer: who served it, how, and what the warm cache saved."""

from __future__ import annotations

from collections.abc import Mapping

from cli.client import Reply
from cli.members import named
from cli.text import count, duration, printable, short_request


def footer_parts(reply: Reply, names: Mapping[str, str]) -> list[str]:
    """What `wrap_parts` joins; ``names`` maps PeerIds to node names. Missing fields are skipped."""
    usage, hearth = reply.usage, reply.hearth
    parts = []
    if served_by := hearth.get("served_by"):
        name = hearth.get("served_by_name") or names.get(served_by, "")
        parts.append(f"served by {named(served_by, name)}")
    if route := hearth.get("route"):
        words = printable(str(route)).replace("-", " ")
        hops = hearth.get("hops") or 0
        parts.append(f"{words}, {count(hops, 'hop')}" if hops else words)
    if prompt_tokens := usage.get("prompt_tokens"):
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        parts.append(f"{cached:,} of {prompt_tokens:,} prompt tokens cached")
    if (ttft_ms := hearth.get("ttft_ms")) is not None:
        parts.append(f"first token {duration(ttft_ms)}")
    if saved_ms := hearth.get("saved_ms"):
        parts.append(f"saved ~{duration(saved_ms)}")
    if request_id := hearth.get("request_id"):
        parts.append(f"request {short_request(str(request_id))}")
    if reply.finish_reason == "length":
        parts.append("cut off at the token limit")
    return parts
