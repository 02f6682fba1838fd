"""What a node tells of itself in numbers."""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace
from typing import cast

from prometheus_client.parser import text_string_to_metric_families

from models.engine import EngineStats, ModelInfo
from overlay.forwarding.neighbourhood import LocalModel
from overlay.identity.peer_id import PeerId
from overlay.member import Member
from overlay.mesh import Mesh
from overlay.routing.cost_policy import CostPolicy
from overlay.status import metrics

INFO = ModelInfo("toy", b"k" * 16, ("alias",), "a toy", 4096, 8192, 1)


def mesh_with(*models: LocalModel) -> Mesh:
    """Only what the metrics look at."""
    rng = random.Random(0)
    member = Member(PeerId(b"m" * 32), 1, b"s" * 32, CostPolicy(rng), rng, 0.0)
    for model in models:
        member.neighbourhood.models[model.info.name] = model
    return cast(Mesh, SimpleNamespace(known_peers=lambda: [], member=member))


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
