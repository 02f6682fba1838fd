"""The fuzzer finds what it is made to find, and nothing in the codec."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from overlay.errors import Malformed
from overlay.wire.messages import Message, Ping
from tests.chaos import fuzz_codec
from tests.chaos.fuzz_codec import fuzz, inputs, valid_messages
from tests.chaos.scene import strength


def test_no_bytes_do_harm_to_the_codec() -> None:
    found = fuzz(seed=1, count=strength(40_000, 1_000_000))
    assert set(found) > {kind.__name__ for kind in fuzz_codec.KINDS}, "each is read now and then"
    assert found[Malformed.__name__] > 0


def test_a_seed_gives_the_same_inputs_again() -> None:
    one, other = (list(islice(inputs(random.Random(7)), 2000)) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("fault", [KeyError("x"), RecursionError()])
def test_an_error_of_another_kind_is_found(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def decode(data: bytes) -> Message:
        raise fault

    monkeypatch.setattr(fuzz_codec, "decode", decode)
    with pytest.raises(AssertionError, match="seed 3"):
        fuzz(3, 1)


def test_a_message_that_is_read_otherwise_the_second_time_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings = (Ping(number) for number in range(10))
    monkeypatch.setattr(fuzz_codec, "decode", lambda data: next(readings))
    with pytest.raises(AssertionError, match="second time"):
        fuzz(3, 1)


def test_messages_of_every_kind_are_made() -> None:
    made = valid_messages(random.Random(1), 200)
    assert {type(message) for message in made} == set(fuzz_codec.KINDS)
