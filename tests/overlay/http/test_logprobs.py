"""OpenAI's two shapes of log probabilities."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from models.engine import Alternative, TokenLogprob
from overlay.http.logprobs import ChatLogprobs, CompletionLogprobs

SMILE = "😀".encode()
TOKENS = (
    TokenLogprob(b"a", -0.5, (Alternative(b"a", -0.5), Alternative(b"b", -1.5))),
    TokenLogprob(SMILE[:2], -2.0, (Alternative(b"c", -1.0),)),
    TokenLogprob(SMILE[2:], -0.1, ()),
    TokenLogprob(b"d", -0.2, (Alternative(b"", -3.0),)),
)


def test_chat() -> None:
    dressed = ChatLogprobs().dress(TOKENS)
    assert [entry["token"] for entry in dressed["content"]] == ["a", "\ufffd", "\ufffd\ufffd", "d"]
    assert b"".join(bytes(entry["bytes"]) for entry in dressed["content"]) == "a😀d".encode()
    assert dressed["content"][0] == {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": "b", "logprob": -1.5, "bytes": [98]},
        ],
    }


def test_completions() -> None:
    assert CompletionLogprobs().dress(TOKENS) == {
        "tokens": ["a", r"bytes:\xf0\x9f", r"bytes:\x98\x80", "d"],
        "token_logprobs": [-0.5, -2.0, -0.1, -0.2],
        "top_logprobs": [
            {"a": -0.5, "b": -1.5},
            {r"bytes:\xf0\x9f": -2.0, "c": -1.0},
            {r"bytes:\x98\x80": -0.1},
            {"d": -0.2, "": -3.0},
        ],
        "text_offset": [0, 1, 1, 2],
    }


@given(st.text(), st.data())
def test_offsets_do_not_depend_on_how_a_stream_is_cut(text: str, data: st.DataObject) -> None:
    encoded = text.encode("utf-8", "replace")
    cuts = sorted({0, len(encoded), *data.draw(st.lists(st.integers(0, len(encoded))))})
    tokens = [TokenLogprob(encoded[a:b], 0.0, ()) for a, b in pairwise(cuts)]
    whole = CompletionLogprobs().dress(tokens)["text_offset"]
    one_by_one = CompletionLogprobs()
    assert [one_by_one.dress([token])["text_offset"][0] for token in tokens] == whole
    for offset, start in zip(whole, cuts, strict=False):
        assert offset == len(encoded[:start].decode("utf-8", "ignore"))
