"""What a node tells of itself in numbers."""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace
from typing import cast

from prometheus_client.parser import text_string_to_metric_families

from models.engine import EngineStats, ModelInfo
from overlay.forwarding.hindsight import Match
from overlay.forwarding.neighbourhood import LocalModel
from overlay.gossip.records import CARD, Card, ModelCard
from overlay.identity.peer_id import PeerId
from overlay.member import Member
from overlay.mesh import Mesh
from overlay.metrics import metrics
from overlay.routing.cost_policy import CostPolicy
from overlay.transport.relaying import Allowance
from overlay.wire.anti_entropy import Change

INFO = ModelInfo("toy", b"k" * 16, ("alias",), "a toy", 4096, 8192, 1)


def mesh_with(*models: LocalModel) -> Mesh:
    """Only what the metrics look at."""
    rng = random.Random(0)
    member = Member(PeerId(b"m" * 32), 1, b"s" * 32, CostPolicy(rng), rng, 0.0)
    for model in models:
        member.neighbourhood.models[model.info.name] = model
    transport = SimpleNamespace(relayed=Allowance)
    return cast(Mesh, SimpleNamespace(known_peers=dict, member=member, transport=transport))


def test_every_figure_of_an_engine_is_a_metric() -> None:
    stats = EngineStats(*range(1, len(dataclasses.fields(EngineStats)) + 1))
    text = metrics(mesh_with(LocalModel(INFO, stats))).decode()
    told = {
        sample.name.removeprefix("hearth_").removesuffix("_total"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels == {"model": "toy"} and not sample.name.endswith("_created")
    }
    figures = dataclasses.asdict(stats).items()
    assert told == {name.removesuffix("_total"): value for name, value in figures}


def test_how_decisions_turned_out_is_a_metric() -> None:
    mesh = mesh_with()
    told = mesh.member.forwarder.hindsight
    told.blind_decisions = 2
    told.prefetched_tokens = 576
    told.decisions["client", "peer"] = 3
    told.decisions["peer", "self"] = 1
    told.matches[Match.OVERESTIMATED] = 1
    told.error_tokens[Match.OVERESTIMATED] = 640
    told.ttft_ratios[:] = [0, 1, 0, 2, 0, 0, 0, 1]
    told.ttft_ratio_sum = 12.5
    lines = metrics(mesh).decode().splitlines()
    for line in (
        "hearth_blind_decisions_total 2.0",
        "hearth_prefetched_tokens_total 576.0",
        'hearth_decisions_total{asked_by="client",choice="peer"} 3.0',
        'hearth_decisions_total{asked_by="peer",choice="self"} 1.0',
        'hearth_match_estimates_total{outcome="overestimated"} 1.0',
        'hearth_match_estimates_total{outcome="right"} 0.0',
        'hearth_match_error_tokens_total{outcome="overestimated"} 640.0',
        'hearth_ttft_ratio_bucket{le="0.5"} 1.0',
        'hearth_ttft_ratio_bucket{le="1.25"} 3.0',
        'hearth_ttft_ratio_bucket{le="+Inf"} 4.0',
        "hearth_ttft_ratio_count 4.0",
        "hearth_ttft_ratio_sum 12.5",
        "hearth_tokenization_mismatches 0.0",
    ):
        assert line in lines


def test_how_the_machine_is_lent_is_a_metric() -> None:
    mesh = mesh_with()
    mesh.member.pause(0.0)
    mesh.member.forwarder.lending.refused["quota-used-up"] = 2
    lines = metrics(mesh).decode().splitlines()
    for line in (
        "hearth_paused 1.0",
        "hearth_open_guest_requests 0.0",
        'hearth_guest_refusals_total{code="quota-used-up"} 2.0',
    ):
        assert line in lines


def test_what_was_relayed_is_a_metric() -> None:
    mesh = mesh_with()
    allowance = mesh.transport.relayed()
    me = mesh.member.me
    allowance.take(me, PeerId(b"o" * 32), 640, 0.0, head=me)
    mesh.transport.relayed = lambda: allowance  # type: ignore[method-assign]
    lines = metrics(mesh).decode().splitlines()
    for line in (
        "hearth_relayed_messages_total 1.0",
        "hearth_relayed_bytes_total 640.0",
        "hearth_relayed_refused_total 0.0",
    ):
        assert line in lines


def test_a_peer_that_tokenizes_unlike_us_is_a_metric() -> None:
    mesh = mesh_with(LocalModel(dataclasses.replace(INFO, probe=b"a" * 16)))
    card = Card("bea", (), (ModelCard("toy", INFO.key, probe=b"b" * 16),))
    peer = PeerId(b"p" * 32)
    mesh.member.neighbourhood.records_changed(peer, (Change(CARD, 1, card.pack()),))
    assert "hearth_tokenization_mismatches 1.0" in metrics(mesh).decode().splitlines()
