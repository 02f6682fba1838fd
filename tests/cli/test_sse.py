from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cli.sse import SseParser

PAYLOADS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), max_size=8
)


def test_fields_comments_and_line_ends() -> None:
    stream = b": still here\r\n\r\nevent: x\r\ndata:  two\r\ndata:lines\r\n\r\nid: 4\n\ndata: end"
    assert SseParser().feed(stream) == [" two\nlines"]


@given(PAYLOADS, st.lists(st.integers(0, 200), max_size=10))
def test_chunks_may_split_anywhere(payloads: list[str], cuts: list[int]) -> None:
    stream = "".join(f"data: {payload}\n\n" for payload in payloads).encode()
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    parser = SseParser()
    found = [p for a, b in pairwise(edges) for p in parser.feed(stream[a:b])]
    assert found == payloads
