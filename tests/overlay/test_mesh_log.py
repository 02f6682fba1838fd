"""What the log says of peers, however many there are and whatever they tell."""

from __future__ import annotations

import logging

import pytest

from models.engine import ModelInfo
from overlay import mesh_log
from overlay.effects import Unreadable
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.gossip.effects import Disbelieved, PeerDown, PeerUp
from overlay.gossip.records import CARD, Card, ModelCard
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocation
from overlay.mesh_log import MeshLog
from overlay.wire.anti_entropy import Change

ME, ANN, BEN = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))
TOY = ModelInfo("toy", b"k" * 16, (), "a toy", 4096, 8192, 1, probe=b"a" * 16)


def unlike(known: Neighbourhood, peer: PeerId, *models: str) -> None:
    """The peer serves models of our model's key that tokenize unlike it."""
    cards = tuple(ModelCard(name, TOY.key, probe=b"b" * 16) for name in models)
    known.records_changed(peer, (Change(CARD, 1, Card("", (), cards).pack()),))


@pytest.fixture
def known() -> Neighbourhood:
    hood = Neighbourhood(ME)
    hood.model_loaded(TOY)
    return hood


def test_a_peer_that_tokenizes_unlike_us_is_told_of_once(
    known: Neighbourhood, caplog: pytest.LogCaptureFixture
) -> None:
    told = MeshLog(known, lambda peer: True, lambda peer: None)
    unlike(known, ANN, "toy")
    unlike(known, BEN, "toy")
    for now in (0.0, 100.0):
        told.warn_of_unlike(ANN, now)
    assert [str(ANN) in line for line in caplog.messages] == [True]
    for now in (200.0, 300.0):
        told.warn_of_all_unlike(now)
    assert [str(BEN) in line for line in caplog.messages] == [False, True]


def test_who_was_revoked_is_called_by_name(
    known: Neighbourhood, caplog: pytest.LogCaptureFixture
) -> None:
    told = MeshLog(known, lambda peer: True, lambda peer: None)
    known.records_changed(ANN, (Change(CARD, 1, Card("ann", (), ()).pack()),))
    told.revoked(Revocation(b"m" * 16, BEN, ANN, 0))
    told.outcast(Revocation(b"m" * 16, ME, ANN, 0))
    others, own = caplog.messages
    assert f"the membership of {BEN} was revoked by ann ({ANN})" in others
    assert f"the membership of this node was revoked by ann ({ANN})" in own


def test_of_too_many_models_the_latest_are_remembered(
    known: Neighbourhood, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who goes on telling of other ones fills no memory."""
    monkeypatch.setattr(mesh_log, "_WARNED_MAX", 4)
    told = MeshLog(known, lambda peer: True, lambda peer: None)
    for minute, number in enumerate((*range(5), 4, 0)):
        unlike(known, ANN, f"model {number}")
        told.warn_of_unlike(ANN, 60.0 * minute)
    assert [line.count("model 4") for line in caplog.messages] == [0, 0, 0, 0, 1, 0]
    assert "model 0" in caplog.messages[-1]


def test_who_tells_of_ever_new_models_does_not_fill_the_log(
    known: Neighbourhood, caplog: pytest.LogCaptureFixture
) -> None:
    told = MeshLog(known, lambda peer: True, lambda peer: None)
    for number in range(100):
        unlike(known, ANN, *(f"model {number}.{which}" for which in range(16)))
        told.warn_of_unlike(ANN, number / 10)
    [line] = caplog.messages
    assert str(ANN) in line
    assert "model 0.0, model 0.1" in line


@pytest.mark.parametrize("by", [ANN, None])
def test_origins_that_are_made_up_do_not_fill_the_log(
    by: PeerId | None, known: Neighbourhood, caplog: pytest.LogCaptureFixture
) -> None:
    told = MeshLog(known, lambda peer: True, lambda peer: None)
    made_up = [PeerId(number.to_bytes(32, "big")) for number in range(100)]
    for origin in made_up:
        told.tell(Unreadable(origin, by, "no msgpack"), 1.0)
        told.tell(Disbelieved(ANN, origin, "too much"), 1.0)
    first, second = caplog.messages
    for words in (str(by or "somebody"), "malformed", str(made_up[0]), "no msgpack"):
        assert words in first
    for words in (str(ANN), "not believed", str(made_up[0]), "too much"):
        assert words in second


def test_it_is_not_told_that_who_may_be_made_up_comes_and_goes(
    known: Neighbourhood, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    told = MeshLog(known, lambda peer: peer == ANN, lambda peer: None)
    for peer in (ANN, BEN):
        told.tell(PeerUp(peer), 0.0)
        told.tell(PeerDown(peer, "silence"), 0.0)
    assert caplog.messages == [f"{ANN.short} is UP", f"{ANN.short} is DOWN: silence"]


@pytest.mark.parametrize("linked", [True, False])
def test_a_crowd_that_one_let_in_does_not_fill_the_log(
    linked: bool, known: Neighbourhood, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether its members say so themselves, or their chains do that others tell of."""
    crowd = [PeerId(number.to_bytes(32, "big")) for number in range(100)]
    told = MeshLog(known, lambda peer: True, lambda peer: None if linked else (ANN, peer))
    for peer in crowd:
        if linked:
            known.introduced(peer, "made up", (ANN, peer), 0.0)
        told.tell(Disbelieved(peer, ME, "too much"), 1.0)
    assert [str(peer) in line for peer, line in zip(crowd, caplog.messages, strict=False)] == (
        [True] * 20 + [False] * 7
    )
    assert caplog.messages[-1] == f"each of 64 or more others whom {ANN} let in is not believed"
