from hypothesis import given
from hypothesis import strategies as st

from cli.chat.blocks import PARSER, split_finished

PIECES = [
    "word ",
    "*x* ",
    "\n",
    "\n\n",
    "# ",
    "- ",
    "1. ",
    "2. ",
    "    ",
    "> ",
    "```",
    "~~~\n",
    "---",
    "| a | b |\n",
    "|---|---|\n",
    "<b>",
    "\x0c",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def test_a_block_is_finished_when_the_next_one_has_a_whole_line() -> None:
    assert split_finished("One\n\nTw") == ([], "One\n\nTw")
    assert split_finished("One\n\nTwo\n") == (["One\n\n"], "Two\n")


def test_open_code_and_lists_stay_in_the_tail() -> None:
    assert split_finished("Hi\n\n```py\na\n\nb\n") == (["Hi\n\n"], "```py\na\n\nb\n")
    assert split_finished("- a\n\n- b\n")[0] == []


@given(TEXTS, st.integers(0, 120))
def test_what_was_cut_off_never_changes_any_more(text: str, cut: int) -> None:
    early, early_tail = split_finished(text[:cut])
    assert "".join(early) + early_tail == text[:cut]
    late, tail = split_finished(text)
    assert "".join(late) + tail == text
    assert late[: len(early)] == early


@given(TEXTS)
def test_blocks_render_apart_as_they_do_together(text: str) -> None:
    blocks, tail = split_finished(text)
    assert "".join(PARSER.render(part) for part in (*blocks, tail)) == PARSER.render(text)
