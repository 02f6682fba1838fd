"""What a node tells of itself in numbers, for Prometheus."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

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
from overlay.mesh import Mesh


def metrics(mesh: Mesh) -> bytes:
    """Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(_MeshCollector(mesh))
    return generate_latest(registry)


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
        "Requests routed without a usable summary, or to a peer that was warm unbeknown.",
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
    (CounterMetricFamily, "prompt_tokens", "Tokens of prompts computed to their end."),
    (CounterMetricFamily, "cached_tokens", "Tokens of these that were cached."),
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
