from __future__ import annotations

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.engine import goes_by
from overlay.errors import Malformed
from overlay.gossip.records import Card, Load, ModelCard, block_key, block_of
from overlay.limits import ADDRESS_CHARS_MAX, NAME_CHARS_MAX, RECORD_VALUE_BYTES_MAX

printable = st.text(st.characters(categories=["L", "N", "P"]), max_size=NAME_CHARS_MAX)
#: Nothing is there yet in Unicode; of what is new, older Pythons know as little.
UNASSIGNED = "\U0003fffd"
lower_case = printable.map(str.lower).filter(lambda text: len(text) <= NAME_CHARS_MAX)
rate = st.just(0.0) | st.floats(1e-6, 1e6)
model = st.builds(
    ModelCard,
    name=printable,
    key=st.binary(min_size=16, max_size=16),
    aliases=st.lists(lower_case, max_size=8).map(tuple),
    description=printable,
    context_length=st.integers(0, 1 << 24),
    prefill_rate=rate,
    decode_rate=rate,
    probe=st.just(b"") | st.binary(min_size=16, max_size=16),
)
card = st.builds(
    Card,
    name=printable,
    addresses=st.lists(printable, max_size=8).map(tuple),
    models=st.lists(model, max_size=3).map(tuple),
    paused=st.booleans(),
)
wild_card = st.builds(
    Card,
    name=st.text(),
    addresses=st.lists(st.text(st.characters(categories=["L"])), max_size=20).map(tuple),
    models=st.lists(
        st.builds(
            ModelCard,
            name=st.text(max_size=200),
            key=st.just(bytes(16)),
            aliases=st.lists(st.text(), max_size=12).map(tuple),
            description=st.text(max_size=400),
            prefill_rate=st.floats(),
            decode_rate=st.floats(),
        ),
        max_size=20,
    ).map(tuple),
)
count = st.integers(0, 1 << 40)


@given(card)
def test_card_round_trip(value: Card) -> None:
    assert Card.unpack(value.pack()) == value


@given(wild_card)
@example(Card("n", ("a" * (ADDRESS_CHARS_MAX + 1), "a")))
def test_whatever_the_metadata_a_card_is_readable(value: Card) -> None:
    packed = value.pack()
    assert len(packed) <= RECORD_VALUE_BYTES_MAX
    Card.unpack(packed)


def test_a_card_of_the_widest_characters_fits() -> None:
    widest = ModelCard("\U0001f525" * 64, bytes(16), ("\U0001f525" * 64,) * 8, "\U0001f525" * 200)
    packed = Card("\U0001f525" * 64, (), (widest,) * 16).pack()
    assert len(packed) <= RECORD_VALUE_BYTES_MAX
    assert Card.unpack(packed).models


def test_a_card_of_another_implementation_is_read() -> None:
    """Its packer makes integers of whole numbers, and its aliases have capitals."""
    model = ["m", bytes(16), ["Big-One"], "", 4096, 100, 0]
    [read] = Card.unpack(msgpack.packb(["n", [], [model]])).models
    assert (read.prefill_rate, read.decode_rate) == (100.0, 0.0)
    assert goes_by("big-ONE", read.name, read.aliases)


def test_letters_that_this_python_does_not_know_are_read_and_told() -> None:
    """A node on a newer Python does know them: its card must not vanish for them."""
    told = Card(UNASSIGNED).pack()
    assert Card.unpack(told).name == UNASSIGNED


@given(st.builds(Load, *[count] * 5, st.integers(0, 1000), st.none() | count))
def test_load_round_trip(value: Load) -> None:
    assert Load.unpack(value.pack()) == value


def test_an_older_node_tells_nothing_of_losses() -> None:
    assert Load.unpack(msgpack.packb([1, 2, 3, 4, 5])) == Load(1, 2, 3, 4, 5)


def test_nothing_is_lost_more_than_always() -> None:
    with pytest.raises(Malformed):
        Load.unpack(msgpack.packb([1, 2, 3, 4, 5, 1001]))


def test_places_for_guests_are_a_number_or_without_bound() -> None:
    assert Load.unpack(msgpack.packb([1, 2, 3, 4, 5, 6, 0])).guest_places == 0
    assert Load.unpack(msgpack.packb([1, 2, 3, 4, 5, 6, None])).guest_places is None
    with pytest.raises(Malformed):
        Load.unpack(msgpack.packb([1, 2, 3, 4, 5, 6, -1]))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_only_ever_malformed(data: bytes) -> None:
    for kind in (Card, Load):
        try:
            kind.unpack(data)
        except Malformed:
            continue


@pytest.mark.parametrize(
    "fields",
    [
        ["name\x1b[2J", [], []],
        ["n" * 65, [], []],
        ["n", ["a"] * 9, []],
        ["n", [], [["m", bytes(15), [], "", 1, 0.0, 0.0]]],
        ["n", [], [["m", bytes(16), [], "", -1, 0.0, 0.0]]],
        ["n", [], [["m", bytes(16), [], "", True, 0.0, 0.0]]],
        ["n", [], [["m", bytes(16), [], "", 1, float("nan"), 0.0]]],
        ["n", [], [["m", bytes(16), [], "", 1, float("inf"), 0.0]]],
        ["n", [], [["m", bytes(16), [], "", 1, 0.0, -1.0]]],
        ["n", [], [["m", bytes(16), [], "", 1, 0.0, 5e-324]]],
        ["n", [], [["m", bytes(16), [], "", 1, 0.0, True]]],
        ["n", [], [["m", bytes(16), [], "", 1, 0.0, 10**10]]],
        ["n", [], [["m", bytes(16), [], "", 1, 0.0]]],
        ["n", [], [["m", bytes(16), [], "", 1, 0.0, 0.0, bytes(15)]]],
        ["n", [], [["m", bytes(16), [], "", 1, 0.0, 0.0, "a" * 16]]],
        ["n", [], [], 1],
        ["n", []],
        {"name": "n"},
    ],
)
def test_bad_cards_are_refused(fields: object) -> None:
    with pytest.raises(Malformed):
        Card.unpack(msgpack.packb(fields))


def test_fields_of_newer_nodes_are_ignored() -> None:
    assert Load.unpack(msgpack.packb([1, 2, 3, 4, 5, 6, 7, "new"])) == Load(1, 2, 3, 4, 5, 6, 7)
    model = ["m", bytes(16), [], "", 1, 0.0, 0.0]
    for packed, probe in ((model, b""), ([*model, b"p" * 16, "new"], b"p" * 16)):
        (read,) = Card.unpack(msgpack.packb(["n", [], [packed]])).models
        assert read.probe == probe
    assert Card.unpack(msgpack.packb(["n", [], [], True, "new"])) == Card("n", paused=True)
    assert Card.unpack(msgpack.packb(["n", [], []])) == Card("n")


@given(st.integers(0, 2**64 - 1))
def test_block_keys(block: int) -> None:
    assert block_of(block_key(block)) == block
    assert block_of(b"card") is None
