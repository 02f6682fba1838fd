"""What a node tells of itself: the status object, and its metrics."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from overlay.forwarding.hindsight import TTFT_RATIO_BOUNDS, Hindsight, Match
from overlay.gossip.effects import PeerState
from overlay.home.contents import Contact
from overlay.http.backend import ModelListing
from overlay.identity.certificates import format_mesh_id
from overlay.identity.peer_id import PeerId
from overlay.mesh import Mesh
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.standing import ending_told, revocation_told
from overlay.transport.budgets import Ban
from overlay.transport.port_mapping import PortMapping

#: Figures of `EngineStats` about the cache, which add up over models.
_CACHE = (
    "cells_used",
    "cells_total",
    "sequences_used",
    "spilled_tokens",
    "spilled_bytes",
    "disk_tokens",
    "disk_bytes",
    "hits",
    "prompt_tokens",
    "cached_tokens",
    "evicted_tokens",
    "evictions",
    "spills",
    "restores",
    "restored_tokens",
    "dropped_pieces",
)


def status(
    mesh: Mesh,
    *,
    name: str,
    api: str,
    version: str,
    uptime_s: float,
    paused_since_s: float | None,
    met_before: Mapping[PeerId, Contact],
) -> dict[str, Any]:
    """The object of ``/mesh/status``; its shape is documented in the HTTP reference."""
    stats = [(m.info, m.stats) for m in mesh.member.neighbourhood.models.values()]
    relayed = mesh.transport.relayed()
    return {
        "peer_id": str(mesh.me),
        "name": name,
        "version": version,
        "uptime_s": round(uptime_s, 1),
        "mesh_id": format_mesh_id(mesh.membership.mesh_id),
        "membership_ends": ending_told(mesh.membership),
        "revoked": None if mesh.revoked is None else revocation_told(mesh.revoked),
        "api": api,
        "listen": [str(address) for address in mesh.addresses],
        "observed": sorted({str(address) for address in mesh.transport.observed().values()}),
        "port_mapping": _port_mapping(mesh.whereabouts.mapping),
        "models": [info.name for info, _ in stats],
        "peers": _peers(mesh),
        "absent": _absent(mesh, met_before),
        "revocations": [revocation_told(each) for each in mesh.revocations],
        "cache": {
            "summary_blocks": len(mesh.member.neighbourhood.summary),
            **{field: sum(getattr(s, field) for _, s in stats) for field in _CACHE},
        },
        "requests": {
            "open": mesh.member.forwarder.open_requests,
            "running": sum(s.running for _, s in stats),
            "queued": sum(s.queued for _, s in stats),
            "served": sum(s.requests for _, s in stats),
            "preempted": sum(s.preemptions for _, s in stats),
            "blind_decisions": mesh.member.forwarder.hindsight.blind_decisions,
        },
        "lending": lending(mesh, paused_since_s),
        "relays": mesh.transport.relays,
        "relayed": {
            "messages": relayed.messages,
            "bytes": relayed.bytes,
            "refused": relayed.refused,
        },
        "routing": _routing(mesh.member.forwarder.hindsight),
        "engines": [
            {
                "model": info.name,
                "description": info.description,
                "context_length": info.context_length,
                "prefill_rate": round(s.prefill_rate, 1),
                "decode_rate": round(s.decode_rate, 1),
                "restore_rate": round(s.restore_rate, 1),
            }
            for info, s in stats
        ],
    }


def _port_mapping(mapping: PortMapping | None) -> dict[str, str | None] | None:
    """Where the router passes on to this node, or why not; None: it is not to be asked."""
    if mapping is None:
        return None
    external = None if mapping.external is None else str(mapping.external)
    return {"external": external, "failure": mapping.failure or None}


def lending(mesh: Mesh, paused_since_s: float | None) -> dict[str, Any]:
    """On what terms guests are served now, and how many are. ``paused_since_s``: Unix time."""
    lent = mesh.member.forwarder.lending
    terms, models = lent.terms, mesh.member.neighbourhood.models.values()
    since = None if paused_since_s is None else datetime.fromtimestamp(paused_since_s, UTC)
    return {
        "paused": since is not None,
        "paused_since": None if since is None else since.isoformat(timespec="seconds"),
        "guest_requests": terms.guest_requests,
        "guest_tokens_per_minute": terms.guest_tokens_per_minute,
        "private": [model.info.name for model in models if model.private],
        "open_guest_requests": lent.guests,
        "tokens_last_minute": {str(p): n for p, n in lent.spent(mesh.now()).items()},
        "refused": dict(sorted(lent.refused.items())),
    }


def listings(mesh: Mesh, created_s: int) -> list[ModelListing]:
    """The models that can be asked for now, this node's own first."""
    neighbourhood = mesh.member.neighbourhood
    found = {
        info.name: ModelListing(
            info.name, info.aliases, info.description, True, info.context_length, created_s
        )
        for info in (model.info for model in neighbourhood.models.values())
    }
    for name, card in neighbourhood.offered().items():
        offered = ModelListing(
            name, card.aliases, card.description, False, card.context_length, created_s
        )
        found.setdefault(name, offered)
    return list(found.values())


def _peers(mesh: Mesh) -> list[dict[str, Any]]:
    known = mesh.member
    links, slowed, bans = mesh.transport.links(), mesh.transport.slowed(), mesh.transport.bans()
    unlike: dict[PeerId, list[str]] = {}
    for peer, model in known.neighbourhood.unlike():
        unlike.setdefault(peer, []).append(model)
    found = []
    for peer, state in sorted(mesh.known_peers().items()):
        neighbour = known.neighbourhood.neighbours.get(peer)
        card = neighbour.card if neighbour else None
        load = neighbour.load if neighbour else None
        link = links.get(peer)
        blocks = known.neighbourhood.index.blocks(peer)
        inviter = known.roll.inviter(peer)
        found.append(
            {
                "peer_id": str(peer),
                "name": known.neighbourhood.name_of(peer),
                "state": state.name,
                "invited_by": None if inviter is None else str(inviter),
                "incarnation": known.gossip.incarnation(peer),
                "rtt_ms": None if link is None or link.rtt_ms is None else round(link.rtt_ms, 2),
                "models": [model.name for model in card.models] if card else [],
                "paused": card is not None and card.paused,
                "tokenizes_unlike": unlike.get(peer, []),
                "addresses": list(card.addresses) if card else [],
                "cached_tokens": blocks * BLOCK_TOKENS,
                "summary_blocks": blocks,
                "running": load.running if load else 0,
                "queued": load.queued if load else 0,
                "link": None if link is None else link.direction,
                "relay": None if link is None or link.relay is None else str(link.relay),
                "slowed": peer in slowed,
                "banned": _banned(bans.get(peer), mesh.now()),
            }
        )
    return found


def _absent(mesh: Mesh, met_before: Mapping[PeerId, Contact]) -> list[dict[str, str]]:
    """Of ``met_before``, those that were not heard of since this node started."""
    here = {mesh.me, *mesh.known_peers(), *mesh.acquaintances.excluded}
    away = sorted(met_before.keys() - here)
    return [{"peer_id": str(peer), "name": met_before[peer].name} for peer in away]


def _banned(ban: Ban | None, now: float) -> dict[str, str] | None:
    """Until when nothing is exchanged with the peer, and why."""
    if ban is None:
        return None
    until = datetime.fromtimestamp(time.time() + ban.until - now, UTC)
    return {"until": until.isoformat(timespec="seconds"), "reason": ban.reason}


def _routing(told: Hindsight) -> dict[str, Any]:
    choices = ("self", "peer")
    return {
        "decisions": {
            choice: sum(n for (_, where), n in told.decisions.items() if where == choice)
            for choice in choices
        },
        "match_estimates": {match.value: told.matches[match] for match in Match},
    }


class _MeshCollector(Collector):
    """Reads the numbers when they are scraped, so nothing is counted twice."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def collect(self) -> Iterator[Metric]:
        mesh = self._mesh
        up = sum(state is PeerState.UP for state in mesh.known_peers().values())
        yield GaugeMetricFamily("hearth_peers_up", "Peers judged UP.", value=up)
        yield GaugeMetricFamily(
            "hearth_open_requests",
            "Requests in flight here.",
            value=mesh.member.forwarder.open_requests,
        )
        lent = mesh.member.forwarder.lending
        yield GaugeMetricFamily(
            "hearth_paused", "1 while the owner lends to nobody.", value=lent.paused
        )
        yield GaugeMetricFamily(
            "hearth_open_guest_requests", "Of these, other members'.", value=lent.guests
        )
        refusals = CounterMetricFamily(
            "hearth_guest_refusals", "Guests' requests that were refused.", labels=["code"]
        )
        for code, count in sorted(lent.refused.items()):
            refusals.add_metric([code], count)
        yield refusals
        relayed = mesh.transport.relayed()
        for field, text in _RELAYED:
            value = getattr(relayed, field)
            yield CounterMetricFamily(f"hearth_relayed_{field}", text, value=value)
        yield GaugeMetricFamily(
            "hearth_tokenization_mismatches",
            "Models of peers that have the key of ours and tokenize unlike it.",
            value=len(mesh.member.neighbourhood.unlike()),
        )
        yield from _in_hindsight(mesh.member.forwarder.hindsight)
        for kind, field, text in _PER_MODEL:
            family = kind(f"hearth_{field}", text, labels=["model"])
            for model in mesh.member.neighbourhood.models.values():
                family.add_metric([model.info.name], getattr(model.stats, field))
            yield family


def _in_hindsight(told: Hindsight) -> Iterator[Metric]:
    """How decisions turned out."""
    yield CounterMetricFamily(
        "hearth_blind_decisions",
        "Requests routed without a usable summary.",
        value=told.blind_decisions,
    )
    yield CounterMetricFamily(
        "hearth_prefetched_tokens",
        "Prompt tokens that a peer had cached, and that were computed here, too, afterwards.",
        value=told.prefetched_tokens,
    )
    decisions = CounterMetricFamily(
        "hearth_decisions", "Decisions where a request goes.", labels=["asked_by", "choice"]
    )
    for (asked_by, choice), count in sorted(told.decisions.items()):
        decisions.add_metric([asked_by, choice], count)
    yield decisions
    matches = CounterMetricFamily(
        "hearth_match_estimates",
        "Clients' requests by how the actual match compares with the estimate.",
        labels=["outcome"],
    )
    tokens = CounterMetricFamily(
        "hearth_match_error_tokens",
        "Tokens by which matches were over- or underestimated.",
        labels=["outcome"],
    )
    for match in Match:
        matches.add_metric([match.value], told.matches[match])
    for match in (Match.OVERESTIMATED, Match.UNDERESTIMATED):
        tokens.add_metric([match.value], told.error_tokens[match])
    yield from (matches, tokens)
    bounds = [*map(str, TTFT_RATIO_BOUNDS), "+Inf"]
    yield HistogramMetricFamily(
        "hearth_ttft_ratio",
        "Actual over predicted time to first token of clients' requests.",
        buckets=list(zip(bounds, itertools.accumulate(told.ttft_ratios), strict=True)),
        sum_value=told.ttft_ratio_sum,
    )


_RELAYED = (
    ("messages", "Messages passed on between members that cannot dial each other."),
    ("bytes", "Bytes of these."),
    ("refused", "Messages of these that were not: more than is granted."),
)

_PER_MODEL: tuple[tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], str, str], ...] = (
    (GaugeMetricFamily, "queued", "Requests waiting for the engine."),
    (GaugeMetricFamily, "queued_guests", "Guests' requests of these."),
    (GaugeMetricFamily, "running", "Requests in the batch."),
    (GaugeMetricFamily, "pending_prefill_tokens", "Prompt tokens not computed yet."),
    (GaugeMetricFamily, "pending_guest_tokens", "Guests' prompt tokens of these."),
    (GaugeMetricFamily, "prefill_rate", "Prompt tokens per second."),
    (GaugeMetricFamily, "decode_rate", "Answer tokens per second of one answer."),
    (GaugeMetricFamily, "cells_used", "KV cells in use."),
    (GaugeMetricFamily, "cells_total", "KV cells."),
    (GaugeMetricFamily, "sequences_used", "Sequences of llama.cpp in use."),
    (CounterMetricFamily, "requests", "Requests the engine took."),
    (CounterMetricFamily, "prompt_tokens", "Prompt tokens of these."),
    (CounterMetricFamily, "cached_tokens", "Prompt tokens that were cached."),
    (CounterMetricFamily, "completion_tokens", "Tokens generated."),
    (GaugeMetricFamily, "spilled_tokens", "Cached tokens kept in RAM, outside the KV cache."),
    (GaugeMetricFamily, "spilled_bytes", "Bytes that these take."),
    (GaugeMetricFamily, "disk_tokens", "Cached tokens kept on disk."),
    (GaugeMetricFamily, "disk_bytes", "Bytes that these take."),
    (GaugeMetricFamily, "restore_rate", "Tokens per second that come back from RAM or disk."),
    (CounterMetricFamily, "hits", "Requests that found a part of their prompt cached."),
    (CounterMetricFamily, "evicted_tokens", "Tokens that left the KV cache."),
    (CounterMetricFamily, "evictions", "Times that some had to."),
    (CounterMetricFamily, "spills", "Pieces of evicted state kept in RAM or on disk."),
    (CounterMetricFamily, "restores", "Pieces that came back into the KV cache."),
    (CounterMetricFamily, "restored_tokens", "Tokens of these."),
    (CounterMetricFamily, "dropped_pieces", "Pieces given up for lack of room, or damaged."),
    (CounterMetricFamily, "preemptions", "Requests that gave way and went on later."),
    (CounterMetricFamily, "steps", "Decodes of the engine, each for all running requests."),
    (CounterMetricFamily, "step_seconds", "Seconds that these took, with all that is around them."),
    (CounterMetricFamily, "computing_seconds", "Seconds of these that llama.cpp computed."),
)


def metrics(mesh: Mesh) -> bytes:
    """Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(_MeshCollector(mesh))
    return generate_latest(registry)
