import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.text import count, duration, printable, short_peer, size, wrap_parts, wrap_words


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\x9b2J\r\x07\tc\nd") == "a[31mb2J\tc\nd"


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(0.2, "0 ms"), (84.2, "84 ms"), (999.7, "1.0 s"), (2100, "2.1 s"), (200_000, "3 min 20 s")],
)
def test_durations(milliseconds: float, words: str) -> None:
    assert duration(milliseconds) == words


@pytest.mark.parametrize(
    ("number", "words"), [(999, "999 B"), (98_362_432, "98.4 MB"), (7.1e12, "7.1 TB")]
)
def test_sizes(number: float, words: str) -> None:
    assert size(number) == words


def test_short_peers_and_counts() -> None:
    assert short_peer("12D3KooWGjxpr1kTTs4Dh2Dgdabcd") == "12D3…abcd"
    assert (count(1, "hop"), count(1200, "hop")) == ("1 hop", "1,200 hops")


def test_words_stay_whole() -> None:
    text = "error: no node runs in /home/ada/a-rather-long-folder: start one\nor another"
    lines = wrap_words(text, 24).split("\n")
    assert lines == [
        "error: no node runs in",
        "/home/ada/a-rather-long-folder:",
        "start one",
        "or another",
    ]


@given(st.lists(st.text("abc", min_size=1, max_size=12), min_size=1), st.integers(1, 40))
def test_parts_wrap_between_parts_only(parts: list[str], width: int) -> None:
    lines = wrap_parts(parts, width)
    assert [part for line in lines for part in line.split(" · ")] == parts
    assert all(len(line) <= width or " · " not in line for line in lines)


def test_wide_characters_take_two_cells() -> None:
    assert wrap_parts(["served by 日本語", "local"], 23) == ["served by 日本語", "local"]
    assert wrap_parts(["served by 日本語", "local"], 24) == ["served by 日本語 · local"]
