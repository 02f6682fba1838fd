"""Who may be asked: what cards, links and the local engines say, and nothing older."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from models.engine import ModelInfo
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.gossip.records import CARD, LOAD, Card, Load, ModelCard
from overlay.identity.peer_id import PeerId
from overlay.wire.messages import Change

ME, *PEERS = (PeerId(bytes([number]) * 32) for number in range(3))
KEY, OTHER_KEY = b"k" * 16, b"o" * 16
NOW = 10.0

peers = st.sampled_from(PEERS)
model_cards = st.builds(
    ModelCard,
    name=st.sampled_from(["toy", "tiny"]),
    key=st.sampled_from([KEY, OTHER_KEY]),
    aliases=st.sampled_from([(), ("toy",), ("tiny",)]),
    prefill_rate=st.sampled_from([1.0, 2.0]),
    probe=st.sampled_from([b"", b"1" * 16, b"2" * 16]),
)
steps = st.one_of(
    st.tuples(st.just("card"), peers, st.lists(model_cards, max_size=2)),
    st.tuples(st.just("load"), peers, st.integers(0, 3)),
    st.tuples(st.just("reset"), peers),
    st.tuples(st.just("up"), peers, st.sampled_from([1.0, 20.0])),
    st.tuples(st.just("down"), peers),
    st.tuples(st.just("serve"), st.sampled_from([b"", b"1" * 16, b"2" * 16])),
    st.tuples(st.just("stop")),
)


def take(hood: Neighbourhood, step: tuple) -> None:
    match step:
        case ("card", peer, models):
            card = Card("somebody", (), tuple(models))
            hood.records_changed(peer, [Change(CARD, 1, card.pack())])
        case ("load", peer, running):
            hood.records_changed(peer, [Change(LOAD, 1, Load(running=running).pack())])
        case ("reset", peer):
            hood.origin_reset(peer)
        case ("up", peer, rtt_ms):
            hood.link_measured(peer, rtt_ms, NOW)
        case ("down", peer):
            hood.link_down(peer)
        case ("serve", probe):
            hood.model_loaded(ModelInfo("toy", KEY, (), "", 4096, 4096, 1, probe=probe))
        case ("stop",) if "toy" in hood.models:
            hood.model_gone("toy")


stories = st.lists(steps, min_size=8, max_size=16)


def linked() -> Neighbourhood:
    """Two peers that serve the model, and this node that does too."""
    hood = Neighbourhood(ME)
    take(hood, ("serve", b""))
    for peer in PEERS:
        take(hood, ("card", peer, [ModelCard("toy", KEY)]))
        take(hood, ("up", peer, 1.0))
    return hood


@given(stories, st.sampled_from(["toy", "TOY", "tiny"]))
def test_candidates_are_the_nodes_that_serve_the_model_now(story: list, name: str) -> None:
    hood = linked()
    for step in story:
        take(hood, step)
        found = hood.candidates(name, (), NOW, exclude=())
        assert [c.peer for c in found if c.is_self] == ([ME] if hood.resolve(name) else [])
        theirs = [c for c in found if not c.is_self]
        assert [c.peer for c in theirs] == [p for p in PEERS if hood.card_of(p, name)]
        for candidate in theirs:
            neighbour, card = hood.neighbours[candidate.peer], hood.card_of(candidate.peer, name)
            assert card is not None
            assert candidate.rtt_ms == neighbour.rtt_ms
            assert candidate.prefill_rate == card.prefill_rate
            assert candidate.running == (neighbour.load or Load()).running
            unlike = hood.tokenizes_unlike(candidate.peer, name)
            assert candidate.summary_age_s == (math.inf if unlike else 0.0)


@given(stories, st.sampled_from([KEY, OTHER_KEY]), st.sets(peers))
def test_candidates_can_be_narrowed(story: list, key: bytes, away: set[PeerId]) -> None:
    hood = linked()
    for step in story:
        take(hood, step)
    found = hood.candidates("toy", (), NOW, exclude=())
    own = [c for c in found if c.is_self]
    assert hood.candidates("toy", (), NOW, exclude=(), here_only=True) == own
    left = [c for c in found if c.peer not in away]
    assert hood.candidates("toy", (), NOW, exclude=away) == left
    alike = [
        c
        for c in found
        if (c.is_self and key == KEY)
        or (
            ((card := hood.card_of(c.peer, "toy")) is not None and card.key == key)
            and not hood.tokenizes_unlike(c.peer, "toy")
        )
    ]
    assert hood.candidates("toy", (), NOW, exclude=(), key=key) == alike
