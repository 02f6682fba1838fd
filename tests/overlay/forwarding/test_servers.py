"""What is kept up to date against a look at every peer."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from models.engine import ModelInfo
from overlay.forwarding.neighbour import Neighbour
from overlay.forwarding.servers import Server, Servers, model_named, unlike
from overlay.gossip.records import Card, ModelCard
from overlay.identity.peer_id import PeerId

KEY = bytes(16)
NAMES = st.sampled_from("abc")


def neighbour(card: Card | None, awaited_since: float = -math.inf) -> Neighbour:
    return Neighbour(card=card, awaited_since=awaited_since)


def info(name: str, probe: bytes) -> ModelInfo:
    return ModelInfo(name, KEY, (), "", 4096, 4096, 1, probe)


models = st.builds(
    lambda name, aliases, probe: ModelCard(name, KEY, tuple(aliases), probe=probe),
    NAMES,
    st.sets(NAMES, max_size=1),
    st.sampled_from([b"", b"1", b"2"]),
)
cards = st.builds(lambda told: Card("", (), tuple(told)), st.lists(models, max_size=2))
peers = st.integers(0, 3).map(lambda number: PeerId(bytes([number]) * 32))
#: A peer's card is another, or none; a peer is unknown again; another model is served here.
steps = st.one_of(
    st.tuples(peers, st.none() | cards),
    st.tuples(peers, st.just("gone")),
    st.tuples(st.just("local"), st.none() | st.builds(info, NAMES, st.sampled_from([b"", b"1"]))),
)


@given(st.lists(st.tuples(steps, st.sets(NAMES)), max_size=20))
def test_the_servers_of_a_model_are_those_whose_cards_name_it(
    lived: list[tuple[tuple[object, object], set[str]]],
) -> None:
    known: dict[PeerId, Neighbour] = {}
    served: dict[str, ModelInfo] = {}
    servers = Servers(known, served.get)
    for (subject, news), asked in lived:
        if isinstance(subject, PeerId):
            if news == "gone":
                known.pop(subject, None)
            else:
                assert news is None or isinstance(news, Card)
                known[subject] = neighbour(news)
            servers.card_changed(subject)
        else:
            served.clear()
            if isinstance(news, ModelInfo):
                served[news.name] = news
            servers.local_changed()
        for name in sorted(asked):
            assert servers.of(name) == all_of(known, served.get(name), name)


def all_of(known: dict[PeerId, Neighbour], local: ModelInfo | None, name: str) -> list[Server]:
    found = []
    for peer, told in sorted(known.items()):
        card = None if told.card is None else model_named(told.card, name)
        if card is not None:
            found.append((peer, card, local is not None and unlike(local, card)))
    called_so = [server for server in found if server[1].name == name]
    return called_so or found


def test_a_model_that_is_but_also_called_so_is_not_meant_where_one_is_called_so() -> None:
    named, other = ModelCard("a", KEY), ModelCard("b", KEY, ("a",))
    first, second = (PeerId(bytes([number]) * 32) for number in range(2))
    known = {first: neighbour(Card("", (), (other,))), second: neighbour(Card("", (), (named,)))}
    servers = Servers(known, lambda _: None)
    assert servers.of("a") == [(second, named, False)]
    known[second] = neighbour(None)
    servers.card_changed(second)
    assert servers.of("a") == [(first, other, False)]


def test_whoever_may_be_asked_soon_is_awaited() -> None:
    ours, others = ModelCard("a", KEY, probe=b"1"), ModelCard("a", bytes([1]) * 16)
    unlike_ours = ModelCard("a", KEY, probe=b"2")
    first, second, third, fourth, fifth = (PeerId(bytes([number]) * 32) for number in range(5))
    known = {
        first: neighbour(Card("", (), (ours,)), 10.0),
        second: neighbour(Card("", (), (ours,)), 20.0),
        third: neighbour(Card("", (), (unlike_ours,)), 30.0),
        fourth: neighbour(Card("", (), (others,)), 40.0),
        fifth: neighbour(None, 50.0),
    }
    servers = Servers(known, {"a": info("a", b"1")}.get)
    assert servers.awaited_since("a", (), None) == 40.0
    assert servers.awaited_since("a", {fourth}, None) == 30.0
    assert servers.awaited_since("a", (), KEY) == 20.0, "the third's tokens are others"
    assert servers.awaited_since("a", {second}, KEY) == 10.0
    assert servers.awaited_since("a", {first, second}, KEY) == -math.inf
    assert servers.awaited_since("b", (), None) == -math.inf


def test_the_same_question_takes_no_second_look_at_every_peer() -> None:
    asked: list[str] = []

    def local(name: str) -> None:
        asked.append(name)

    servers = Servers({PeerId(bytes(32)): neighbour(Card("", (), (ModelCard("a", KEY),)))}, local)
    assert servers.of("a") == servers.of("a")
    assert asked == ["a"]


def test_who_tokenizes_unlike_is_judged_by_what_is_served_here_now() -> None:
    card = ModelCard("a", KEY, probe=b"1")
    peer, served = PeerId(bytes(32)), {"a": info("a", b"1")}
    servers = Servers({peer: neighbour(Card("", (), (card,)))}, served.get)
    assert servers.of("a") == [(peer, card, False)]
    for probe, differs in ((b"2", True), (b"1", False), (b"", False)):
        served["a"] = info("a", probe)
        servers.local_changed()
        assert servers.of("a") == [(peer, card, differs)]
