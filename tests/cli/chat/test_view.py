from __future__ import annotations

import io
import re
import threading
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cli.chat.blocks import split_finished
from cli.chat.view import AnswerView, _Block, _Tail

ANSWER = """Intro *one*.

1. first
2. second

```python
a = 1

b = 2
```

| a | b |
|---|---|
| 1 | 2 |

# End
Last.
"""

SHOWN = [
    *("Intro one.", "", " 1 first", " 2 second", "", " a = 1", "", " b = 2", ""),
    *(" a  b", " ────", " 1  2", "", "End", "", "Last."),
]


def plain_console(**options: Any) -> Console:
    return Console(file=io.StringIO(), width=60, color_system=None, **options)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, len(ANSWER)), max_size=12))
def test_however_it_arrives_all_of_it_is_shown_once(cuts: list[int]) -> None:
    console = plain_console()
    edges = sorted({0, *cuts, len(ANSWER)})
    with AnswerView(console) as view:
        for start, end in pairwise(edges):
            view.add(ANSWER[start:end])
    # No line is filled up with spaces: they would wrap in a narrowed terminal, and be copied.
    assert printed(console).splitlines() == SHOWN
    assert view.text == ANSWER


def test_an_answer_cannot_drive_the_terminal() -> None:
    console = plain_console()
    with AnswerView(console) as view:
        view.add("a\x1b]0;title\x07b\n")
    assert printed(console).strip() == "a]0;titleb"


def test_no_text_leaves_no_trace() -> None:
    console = plain_console()
    with AnswerView(console) as view:
        view.add("\n")
    assert printed(console).strip() == ""


def test_until_the_first_text_the_time_is_shown() -> None:
    now = 10.0
    tail = _Tail(lambda: now)
    now = 11.5
    console = plain_console()
    console.print(tail)
    assert "thinking (prefill)… 1.5 s" in printed(console)


def test_a_silence_in_mid_answer_is_shown() -> None:
    """Another node goes on, say, and computes the prompt: a screen that stands still looks dead."""
    now = 10.0
    tail = _Tail(lambda: now)
    console = plain_console()
    tail.grow("Once upon a")
    now = 11.0
    console.print(tail)
    assert printed(console) == "Once upon a"
    now = 13.5
    console.print(tail)
    assert "waiting for more… 3.5 s" in printed(console)
    tail.grow("Once upon a time")
    console.print(tail)
    assert printed(console).endswith("Once upon a time")


def test_a_silence_after_a_finished_block_is_shown_below_it() -> None:
    now = 10.0
    tail = _Tail(lambda: now)
    tail.below_block = True
    tail.grow("")
    now = 13.0
    console = plain_console()
    console.print(tail)
    assert re.fullmatch(r"\n. waiting for more… 3\.0 s", printed(console))


def test_a_tail_taller_than_the_screen_shows_its_end() -> None:
    console = plain_console(height=10)
    tail = _Tail(lambda: 0.0)
    tail.grow("```\n" + "".join(f"line {number}\n" for number in range(50)))
    console.print(tail)
    lines = printed(console).split()
    assert lines[-1] == "49"
    assert len(printed(console).strip().splitlines()) == 8


def test_a_narrowed_terminal_is_cleared_of_the_lines_that_it_wrapped() -> None:
    console = Console(file=io.StringIO(), width=40, height=30, force_terminal=True)
    view = AnswerView(console)
    view._live.auto_refresh = False  # Each redraw here is one that the test asks for.
    with view:
        view.add("to be or not " * 6)  # Two lines of 40 cells become four of 20.
        view._live.refresh()
        console.width = 20
        before = len(printed(console))
        view._live.refresh()
        assert printed(console)[before:].count("\x1b[1A\x1b[2K") == 3
        before = len(printed(console))
        view._live.refresh()
        assert printed(console)[before:].count("\x1b[1A\x1b[2K") == len(view._tail.drawn) - 1
    assert not console._render_hooks


def test_what_is_redrawn_never_wraps_and_what_stays_does() -> None:
    """A terminal that takes an emoji for wider than rich does would wrap: rich cannot know."""
    console = Console(file=io.StringIO(), width=40, height=30, force_terminal=True)
    view = AnswerView(console)
    view._live.auto_refresh = False
    with view:
        view.add("one\n\ntwo\n")
        view._live.refresh()
        assert printed(console).endswith("\x1b[?7l\ntwo\x1b[?7h")
    stays = re.sub(r"\x1b\[\?7l.*?\x1b\[\?7h", "", printed(console), flags=re.DOTALL)
    assert re.findall(r"one|two", stays) == ["one", "two"]


def test_no_redraw_comes_while_a_finished_block_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=40, height=30, force_terminal=True)
    view = AnswerView(console)
    view._live.auto_refresh = False
    drawn: list[str] = []

    def redraw(block: str) -> None:
        if view._live._lock.acquire(blocking=False):  # Rich's own thread waits for it.
            view._live.refresh()
            drawn.append(block)
            view._live._lock.release()

    def interrupted(self: _Block, *given: Any) -> object:
        refresher = threading.Thread(target=redraw, args=(self._text,))
        refresher.start()
        refresher.join()
        return render(self, *given)

    render = _Block.__rich_console__
    monkeypatch.setattr(_Block, "__rich_console__", interrupted)
    with view:
        view.add("# One\n\nTwo\n\nthree")
        assert drawn == []


def test_a_text_is_parsed_once_for_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def counted(text: str) -> tuple[list[str], str]:
        parsed.append(text)
        return split_finished(text)

    monkeypatch.setattr("cli.chat.view.split_finished", counted)
    with AnswerView(plain_console()) as view:
        for part in ("- a", " word", " more", "\n", "- b", " word", "\n"):
            view.add(part)
    assert parsed == ["- a word more\n", "- a word more\n- b word\n"]


@pytest.mark.parametrize(
    "text",
    ["The <b> tag and List<String>, a<b and c>d.", "<div>", "<!-- a comment -->"],
)
def test_html_is_shown_as_it_is(text: str) -> None:
    console = plain_console()
    with AnswerView(console) as view:
        view.add(f"{text}\n\nEnd.\n")
    lines = [line.rstrip() for line in printed(console).splitlines()]
    assert lines == [text, "", "End."]


def test_where_a_link_leads_is_shown() -> None:
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
    with AnswerView(console) as view:
        view.add("See [the docs](https://example.org/a).\n")
    assert "the docs (https://example.org/a)." in printed(console)
    assert "\x1b]8;" not in printed(console)


def test_lines_stay_lines() -> None:
    console = plain_console()
    with AnswerView(console) as view:
        view.add("Roses are red\n*Violets are\nblue*\n\n- one\n  and more\n")
    lines = [line.strip() for line in printed(console).splitlines()]
    assert lines == ["Roses are red", "Violets are", "blue", "", "• one", "and more"]
