"""What an answer shows does not depend on how its bytes were cut into tokens."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from models.llama.text import TextStream


def show(pieces: list[bytes], stop: tuple[str, ...] = (), skip: int = 0) -> str:
    stream = TextStream(stop, skip)
    return "".join([*(stream.push(piece) for piece in pieces), stream.finish()])


def cut(data: bytes, places: set[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


letters = st.text(st.sampled_from("abé漢🙂"), max_size=12)
stops = st.lists(st.text(st.sampled_from("ab漢"), min_size=1, max_size=4), max_size=3).map(tuple)


@given(letters, stops, st.sets(st.integers(0, 100)))
def test_cuts_do_not_matter(text: str, stop: tuple[str, ...], places: set[int]) -> None:
    by_character = show([character.encode() for character in text], stop)
    assert show(cut(text.encode(), places), stop) == by_character


@given(letters, stops)
def test_all_before_the_first_complete_stop_string(text: str, stop: tuple[str, ...]) -> None:
    ends = [
        (text.index(string) + len(string), text.index(string)) for string in stop if string in text
    ]
    assert show([text.encode()], stop) == (text[: min(ends)[1]] if ends else text)


@given(st.binary(max_size=20), st.sets(st.integers(0, 100)))
def test_bytes_that_are_no_text_are_replaced(data: bytes, places: set[int]) -> None:
    assert show(cut(data, places)) == data.decode("utf-8", "replace")


@given(letters, stops, st.integers(0, 14))
def test_skipping_what_was_delivered(text: str, stop: tuple[str, ...], skip: int) -> None:
    assert show([text.encode()], stop, skip) == show([text.encode()], stop)[skip:]


def test_nothing_is_held_back_without_need() -> None:
    stream = TextStream(("END",))
    assert stream.push(b"some text E") == "some text "
    assert stream.push(b"asy") == "Easy"
    assert stream.push("é".encode()[:1]) == ""
    assert stream.push("é".encode()[1:]) == "é"


def test_nothing_follows_a_stop_string() -> None:
    stream = TextStream(("END",))
    assert stream.push(b"a END b") == "a "
    assert stream.stopped
    assert stream.push(b"more") == ""
    assert stream.finish() == ""
