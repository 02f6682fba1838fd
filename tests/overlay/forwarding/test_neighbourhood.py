"""What a node knows of its own caches, and what it tells of them."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engine import CacheChanged, EngineStats, ModelInfo
from overlay.errors import Malformed
from overlay.forwarding.copies import SAME
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.gossip.records import CARD, LOAD, Card, Load, ModelCard, block_key
from overlay.identity.peer_id import PeerId
from overlay.limits import SUMMARY_BLOCKS_MAX
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.routing.cost import Candidate
from overlay.routing.keeper import keeper
from overlay.routing.prices import copy_worth
from overlay.wire.anti_entropy import Change

ME, PEER = PeerId(b"m" * 32), PeerId(b"p" * 32)
DICE = random.Random(4)
BLOCKS = [DICE.getrandbits(64) for _ in range(3 * SUMMARY_BLOCKS_MAX)]


def neighbourhood(*models: str) -> Neighbourhood:
    own = Neighbourhood(ME)
    for name in models:
        own.model_loaded(ModelInfo(name, name.encode().ljust(16), (), "", 4096, 8192, 1))
    return own


def match_here(own: Neighbourhood, hashes: list[int]) -> int:
    [candidate] = own.candidates("a", hashes, 0.0, exclude=())
    return candidate.match_tokens


def test_the_match_at_home_is_exact_however_much_is_cached() -> None:
    own = neighbourhood("a")
    own.cache_changed("a", CacheChanged(tuple(BLOCKS), ()))
    assert match_here(own, [BLOCKS[0], BLOCKS[-1], 1]) == 2 * BLOCK_TOKENS
    own.cache_changed("a", CacheChanged((), (BLOCKS[-1],)))
    assert match_here(own, [BLOCKS[0], BLOCKS[-1], 1]) == BLOCK_TOKENS


def test_what_blocks_a_peer_has_is_known_though_its_card_cannot_be_read() -> None:
    own = neighbourhood("a")
    own.records_changed(PEER, [Change(block_key(1), 1, b"")])
    malformed = [
        Change(CARD, 2, b"nonsense"),
        Change(block_key(1), 3, None),
        Change(block_key(2), 4, b""),
    ]
    with pytest.raises(Malformed):
        own.records_changed(PEER, malformed)
    assert own.index.match([1, 2]) == {PEER: 2}
    assert own.index.blocks(PEER) == 1


def test_nobody_alone_makes_its_model_the_one_that_most_serve() -> None:
    """A PeerId can be ground to be the lowest."""
    own = neighbourhood()
    served = {b"0": ["bait", "bait"], b"m": ["a"], b"n": ["b", "a"], b"o": ["b", "b"], b"p": ["b"]}
    for first, names in served.items():
        peer, models = PeerId(first * 32), tuple(ModelCard(name, b"k" * 16) for name in names)
        own.records_changed(peer, [Change(CARD, 1, Card("", (), models).pack())])
        own.link_measured(peer, 1.0, 0.0)
    assert [*own.offered()] == ["b", "a", "bait"]
    own.link_down(PeerId(b"p" * 32))
    own.link_down(PeerId(b"o" * 32))
    assert [*own.offered()] == ["a", "bait", "b"]


def test_no_crowd_makes_its_model_the_one_that_most_serve() -> None:
    """All whom one member let in are of one branch, at whichever step that is."""
    ann, bob, eve = (PeerId(letter * 32) for letter in (b"a", b"b", b"e"))
    crowd = [PeerId(bytes([number]) * 32) for number in range(20)]
    for above in ((), (ann,)):
        own = neighbourhood()
        ways = {(*above, eve, key): "bait" for key in crowd}
        for way in [*ways, (ann,), (*above, bob)]:
            card = Card("", (), (ModelCard(ways.get(way, "a"), b"k" * 16),))
            own.records_changed(way[-1], [Change(CARD, 1, card.pack())])
            own.introduced(way[-1], "", way, 0.0)
            own.link_measured(way[-1], 1.0, 0.0)
        assert [*own.offered()] == ["a", "bait"]


def test_what_nobody_holds_any_more_is_lost_once_it_is_computed_again() -> None:
    own = neighbourhood("a")
    here, both, there = BLOCKS[:3]
    own.cache_changed("a", CacheChanged((here, both), ()))
    own.records_changed(PEER, [Change(block_key(block), 1, b"") for block in (both, there)])
    own.cache_changed("a", CacheChanged((), (both,)))
    own.cache_changed("a", CacheChanged((both,), ()))
    assert own.losses.share == 0, "a peer held it all the time"
    own.cache_changed("a", CacheChanged((), (here,)))
    own.records_changed(PEER, [Change(block_key(here), 1, b"")])
    own.cache_changed("a", CacheChanged((here,), ()))
    assert own.losses.share == 0, "a peer has computed it again"
    own.records_changed(PEER, [Change(block_key(here), 2, None)])
    own.cache_changed("a", CacheChanged((), (here,)))
    own.records_changed(PEER, [Change(block_key(there), 2, None)])
    own.cache_changed("a", CacheChanged((here, there), ()))
    assert own.losses.share > 0


def test_what_a_peer_holds_too_costs_the_way_and_the_wait_there() -> None:
    own = neighbourhood("a", "b")
    blocks = tuple(BLOCKS[:20])
    own.engine_stats("a", EngineStats(prefill_rate=1000.0))
    own.cache_changed("a", CacheChanged(blocks, ()))
    own.records_changed(PEER, [Change(block_key(block), 1, b"") for block in blocks])
    assert own.copies_changed() == [], "it has no link"
    own.link_measured(PEER, 20.0, 0.0)
    [(model, told)] = own.copies_changed()
    theirs = {block for block in blocks if keeper(block, [ME, PEER]) == PEER}
    way = 20 * copy_worth(1.0)
    assert (model, told) == ("a", dict.fromkeys(theirs, way))
    own.records_changed(PEER, [Change(LOAD, 2, Load(pending_prefill_tokens=300).pack())])
    [(_, told)] = own.copies_changed()
    assert told == dict.fromkeys(theirs, pytest.approx(1.5 * way)), "on average of some rounds"
    for _ in range(300):
        for _, changed in own.copies_changed():
            told |= changed
    assert told[min(theirs)] == pytest.approx(16 * way, rel=SAME)
    own.records_changed(PEER, [Change(LOAD, 3, Load(lost_permille=1000).pack())])
    [(_, dear)] = own.copies_changed()
    assert dear[min(theirs)] < told[min(theirs)] / 10, "room is dear"
    own.records_changed(PEER, [Change(LOAD, 4, Load(guest_places=0).pack())])
    [(_, told)] = own.copies_changed()
    assert told == dict.fromkeys(theirs, 0), "it takes nobody's requests"


KEY, PROBE = b"k" * 16, b"p" * 16
CARD_OF_A = ModelCard("a", KEY, (), "", 4096, 100.0, 20.0, PROBE)


def with_a_peer(own: Neighbourhood, card: ModelCard = CARD_OF_A) -> Neighbourhood:
    """A peer that serves a model, with a link of 12 ms, and that was last heard of at 90 s."""
    load = Load(3, 2, 500, lost_permille=250)
    records = {CARD: Card("", (), (card,)).pack(), LOAD: load.pack(), block_key(BLOCKS[0]): b""}
    own.records_changed(PEER, [Change(key, 1, value) for key, value in records.items()])
    own.link_measured(PEER, 12.0, 90.0)
    return own


def test_a_peer_is_a_candidate_as_it_tells_and_as_far_as_that_is_fresh() -> None:
    own = with_a_peer(neighbourhood())
    candidate = Candidate(
        peer=PEER,
        rtt_ms=12.0,
        match_tokens=BLOCK_TOKENS,
        summary_age_s=10.0,
        prefill_rate=100.0,
        decode_rate=20.0,
        pending_prefill_tokens=500,
        running=2,
        queued=3,
        lost_share=0.25,
    )
    assert own.candidates("a", BLOCKS[:2], 100.0, exclude=()) == [candidate]
    own.summary_current(PEER, 99.0)
    [fresher] = own.candidates("a", BLOCKS[:2], 100.0, exclude=())
    assert fresher == candidate._replace(summary_age_s=1.0)


def test_who_cannot_take_a_request_is_no_candidate() -> None:
    own = neighbourhood()
    own.model_loaded(ModelInfo("a", KEY, (), "", 8192, 8192, 1, PROBE))
    with_a_peer(own)

    def found(exclude: tuple[PeerId, ...] = (), **options: Any) -> list[PeerId]:
        return [each.peer for each in own.candidates("a", (), 100.0, exclude=exclude, **options)]

    assert found() == found(key=KEY) == found(longer_than=4095) == [ME, PEER]
    assert found((PEER,)) == found(here_only=True) == found(longer_than=4096) == [ME]
    assert found((ME,)) == [PEER]
    assert found(key=b"o" * 16) == found(longer_than=8192) == []
    own.link_down(PEER)
    assert found() == [ME]


def test_of_who_tokenizes_unlike_this_node_no_blocks_count() -> None:
    own = neighbourhood()
    own.model_loaded(ModelInfo("a", KEY, (), "", 8192, 8192, 1, PROBE))
    with_a_peer(own, replace(CARD_OF_A, probe=b"q" * 16))
    [_, theirs] = own.candidates("a", BLOCKS[:1], 100.0, exclude=())
    assert (theirs.match_tokens, theirs.summary_age_s) == (0, math.inf)
    assert own.candidates("a", BLOCKS[:1], 100.0, exclude={ME}, key=KEY) == []


def test_who_starts_anew_keeps_its_link_and_nothing_else() -> None:
    own = with_a_peer(neighbourhood())
    own.origin_reset(PEER)
    assert own.candidates("a", BLOCKS[:1], 100.0, exclude=()) == []
    card = Card("", (), (CARD_OF_A,))
    own.records_changed(PEER, [Change(CARD, 1, card.pack())])
    [theirs] = own.candidates("a", BLOCKS[:1], 100.0, exclude=())
    assert (theirs.rtt_ms, theirs.match_tokens, theirs.queued) == (12.0, 0, 0)
    own.link_down(PEER)
    own.origin_reset(PEER)
    assert PEER not in own.neighbours


def test_who_withdraws_its_load_is_taken_for_idle() -> None:
    own = with_a_peer(neighbourhood())
    assert own.records_changed(PEER, [Change(LOAD, 2, None)])
    [theirs] = own.candidates("a", (), 100.0, exclude=())
    assert (theirs.queued, theirs.running, theirs.pending_prefill_tokens) == (0, 0, 0)


def test_who_tokenizes_unlike_this_node_is_named() -> None:
    own = neighbourhood()
    own.model_loaded(ModelInfo("a", KEY, (), "", 8192, 8192, 1, PROBE))
    own.link_measured(PeerId(b"q" * 32), 1.0, 90.0)  # of which there is no card yet
    with_a_peer(own)
    assert own.unlike() == []
    with_a_peer(own, replace(CARD_OF_A, probe=b"q" * 16))
    assert own.unlike() == [(PEER, "a")]
    assert own.tokenizes_unlike(PEER, "a")


def test_the_owner_has_all_models_and_a_guest_those_that_are_not_private() -> None:
    own = neighbourhood("a")
    own.model_loaded(ModelInfo("b", KEY, (), "", 8192, 8192, 1), private=True)
    assert [each.info.name for each in own.models_for(guest=False)] == ["a", "b"]
    assert [each.info.name for each in own.models_for(guest=True)] == ["a"]


def test_speeds_are_known_of_this_node_and_of_others() -> None:
    own = with_a_peer(neighbourhood("a"))
    assert own.prefill_rate(ME, "a") == 0.0
    own.engine_stats("a", EngineStats(prefill_rate=1000.0))
    assert (own.prefill_rate(ME, "a"), own.prefill_rate(ME, "b")) == (1000.0, 0.0)
    assert (own.prefill_rate(PEER, "a"), own.prefill_rate(PEER, "b")) == (100.0, 0.0)


def test_what_a_copy_elsewhere_saves_is_not_known_before_this_nodes_speed() -> None:
    own = with_a_peer(neighbourhood("a"))
    own.cache_changed("a", CacheChanged(tuple(BLOCKS[:20]), ()))
    own.records_changed(PEER, [Change(block_key(block), 2, b"") for block in BLOCKS[:20]])
    assert own.copies_changed() == []


def test_what_a_peer_offered_whose_link_broke_of_late_is_known() -> None:
    own = with_a_peer(neighbourhood())
    own.link_measured(PeerId(b"q" * 32), 1.0, 90.0)  # of which there is no card yet
    assert own.offered() == {"a": CARD_OF_A}
    own.link_down(PEER, lost_at=100.0)
    assert own.offered() == {}
    assert own.offered(awaited_since=101.0) == {}
    assert own.offered(awaited_since=99.0) == {"a": CARD_OF_A}
    own.link_down(PEER)
    assert own.offered(awaited_since=99.0) == {}, "that it was ended on purpose, it stays so"


def serving(own: Neighbourhood, model: str) -> list[PeerId]:
    return [candidate.peer for candidate in own.candidates(model, (), 0.0, exclude=())]


def test_who_serves_what_is_known_as_cards_change_whatever_is_asked_for() -> None:
    own = neighbourhood()
    own.link_measured(PEER, 1.0, 0.0)
    for version, models in enumerate([("a", "b"), ("b",), ()], 1):
        cards = tuple(ModelCard(name, bytes(16), context_length=4096) for name in models)
        own.records_changed(PEER, [Change(CARD, version, Card("", (), cards).pack())])
        for model in ("a", "b", *map(str, range(100)), "a"):
            assert serving(own, model) == ([PEER] if model in models else [])


hashes = st.sets(st.integers(0, 9), max_size=5)
events = st.tuples(
    st.sampled_from("ab"), st.builds(CacheChanged, hashes.map(tuple), hashes.map(tuple))
)


@given(st.lists(st.tuples(events, st.booleans()), max_size=20), st.booleans())
def test_the_summary_is_what_all_caches_hold(
    steps: list[tuple[tuple[str, CacheChanged], bool]], gone: bool
) -> None:
    """Each of two models has hashes of its own, as the key of the model makes them."""
    own = neighbourhood("a", "b")
    held: dict[str, set[int]] = {"a": set(), "b": set()}
    told: set[int] = set()
    for (model, change), reset in steps:
        far = 100 if model == "b" else 0
        added, removed = (
            {block + far for block in part} for part in (change.added, change.removed)
        )
        own.cache_changed(model, CacheChanged(tuple(sorted(added)), tuple(removed), reset))
        held[model] = (set() if reset else held[model] - removed) | added
        told = taken(own, told)
        assert told == held["a"] | held["b"]
        assert own.models[model].hashes == held[model]
    if gone:
        own.model_gone("b")
        assert taken(own, told) == held["a"]


def taken(own: Neighbourhood, told: set[int]) -> set[int]:
    changes = own.summary.take(0.0)
    return told if changes is None else (told - set(changes.removed)) | set(changes.added)
