"""A node's own records, as gossip gets them."""

from __future__ import annotations

import random
from dataclasses import replace

from models.engine import EngineStats, ModelInfo
from overlay.gossip.gossip import Gossip
from overlay.gossip.records import CARD, LOAD, Card, Load, block_of
from overlay.identity.peer_id import PeerId
from overlay.prefix.changes import Changes
from overlay.publisher import Publisher

ME = PeerId(b"m" * 32)
NOW = 1.0
INFO = ModelInfo("toy", b"k" * 16, ("alias",), "a toy", 4096, 8192, 1)


def publisher() -> tuple[Publisher, Gossip]:
    gossip = Gossip(ME, 1_700_000_000_000, random.Random(0), NOW)
    return Publisher(gossip), gossip


def told(gossip: Gossip) -> set[int]:
    blocks = (block_of(key) for key in gossip.records(ME))
    return {block for block in blocks if block is not None}


def test_blocks_are_told_and_withdrawn() -> None:
    own, gossip = publisher()
    own.summary(Changes((1, 2, 3), (), reset=False), NOW)
    assert told(gossip) == {1, 2, 3}
    own.summary(Changes((4,), (2, 3), reset=False), NOW)
    assert told(gossip) == {1, 4}


def test_the_card_tells_how_the_model_tokenizes() -> None:
    own, gossip = publisher()
    own.card_and_load("ann", (), [(replace(INFO, probe=b"p" * 16), EngineStats())], 0.0, NOW)
    assert Card.unpack(gossip.records(ME)[CARD]).models[0].probe == b"p" * 16


def test_a_paused_node_tells_of_no_models_and_why() -> None:
    own, gossip = publisher()
    own.card_and_load("ann", (), [(INFO, EngineStats())], 0.0, NOW, paused=True)
    assert Card.unpack(gossip.records(ME)[CARD]) == Card("ann", paused=True)
    own.card_and_load("ann", (), [(INFO, EngineStats())], 0.0, NOW)
    assert [model.name for model in Card.unpack(gossip.records(ME)[CARD]).models] == ["toy"]


def test_private_models_are_never_told() -> None:
    own, gossip = publisher()
    models = [(INFO, EngineStats()), (replace(INFO, name="mine"), EngineStats(running=2))]
    own.card_and_load("ann", (), models, 0.0, NOW, private=["mine"], guest_places=3)
    card = Card.unpack(gossip.records(ME)[CARD])
    assert ([model.name for model in card.models], card.paused) == (["toy"], False)
    load = Load.unpack(gossip.records(ME)[LOAD])
    assert (load.running, load.guest_places) == (2, 3), "the machine is busy, whatever with"


def test_rates_are_told_again_only_when_they_moved() -> None:
    own, gossip = publisher()

    def card_after(prefill_rate: float) -> Card:
        stats = EngineStats(prefill_rate=prefill_rate, decode_rate=10.0, running=1)
        own.card_and_load("ann", (), [(INFO, stats)], 0.25, NOW)
        return Card.unpack(gossip.records(ME)[CARD])

    first = card_after(100.0)
    assert first.models[0].prefill_rate == 100.0
    assert card_after(105.0) == first
    assert card_after(150.0).models[0].prefill_rate == 150.0
    load = Load.unpack(gossip.records(ME)[LOAD])
    assert (load.running, load.lost_permille) == (1, 250)
