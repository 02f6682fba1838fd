from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.word_wrap import WordWrap


def wrapped(*pieces: str, width: int) -> str:
    wrap = WordWrap(lambda: width)
    return "".join(map(wrap.add, pieces)) + wrap.rest()


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("one two three four", 9, "one two\nthree\nfour"),
        ("one two", 7, "one two"),
        ("one\n  two three", 7, "one\n  two\nthree"),
        ("a https://example.org/long b", 10, "a\nhttps://example.org/long b"),
        ("日本語の文章 is 日本", 8, "日本語の文章 is\n日本"),
        (
            "```\nlong line of code\n```\nno code here",
            8,
            "```\nlong line of code\n```\nno code\nhere",
        ),
    ],
)
def test_lines_break_between_words(text: str, width: int, shown: str) -> None:
    assert wrapped(text, width=width) == shown


def test_a_word_is_held_back_until_it_is_whole() -> None:
    wrap = WordWrap(lambda: 8)
    assert [wrap.add(piece) for piece in ("one", " t", "wo", " ", "thr", "ee", "\n")] == [
        *("", "one", "", " two", "", "", "\nthree\n")
    ]


def test_the_width_may_change_meanwhile() -> None:
    width = 20
    wrap = WordWrap(lambda: width)
    begun = wrap.add("one two ")
    width = 8
    assert begun + wrap.add("three four") + wrap.rest() == "one two\nthree\nfour"


@given(st.text("ab `\n\t日"), st.lists(st.integers(0, 30), max_size=5), st.integers(1, 12))
def test_only_spaces_become_newlines_however_it_arrives(
    text: str, cuts: list[int], width: int
) -> None:
    edges = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    pieces = [text[start:end] for start, end in pairwise(edges)]
    shown = wrapped(*pieces, width=width)
    assert shown == wrapped(text, width=width)
    assert shown.split() == text.split()
