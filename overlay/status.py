"""What a node tells of itself: the status object."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from overlay.forwarding.hindsight import Hindsight, Match
from overlay.home.contents import Contact
from overlay.http.backend import ModelListing
from overlay.identity.certificates import format_mesh_id
from overlay.identity.peer_id import PeerId
from overlay.mesh import Mesh
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.standing import ending_told, moment_told, revocation_told
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
    return {
        "paused": paused_since_s is not None,
        "paused_since": None if paused_since_s is None else moment_told(paused_since_s),
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
    return {"until": moment_told(time.time() + ban.until - now), "reason": ban.reason}


def _routing(told: Hindsight) -> dict[str, Any]:
    choices = ("self", "peer")
    return {
        "decisions": {
            choice: sum(n for (_, where), n in told.decisions.items() if where == choice)
            for choice in choices
        },
        "match_estimates": {match.value: told.matches[match] for match in Match},
    }
