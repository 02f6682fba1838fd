from typing import Any

from cli.client import Reply
from cli.footer import footer_parts


def reply(finish_reason: str = "stop", cached: int = 612, **hearth: Any) -> Reply:
    usage = {"prompt_tokens": 640, "prompt_tokens_details": {"cached_tokens": cached}}
    return Reply("demo", finish_reason, usage, hearth)


def test_a_forwarded_answer_says_all_of_it() -> None:
    told = reply(served_by="12D3KooWabcd", route="forwarded", hops=1, ttft_ms=84.2, saved_ms=2100)
    assert " · ".join(footer_parts(told, {"12D3KooWabcd": "bea"})) == (
        "served by bea (12D3KooWabcd) · forwarded, 1 hop · 612 of 640 prompt tokens cached"
        " · first token 84 ms · saved ~2.1 s"
    )


def test_an_answer_says_what_to_ask_explain_for() -> None:
    parts = footer_parts(reply(request_id="5f0c7a1e9b3d4c6f8a2e1d0b7c9f3a55"), {})
    assert parts[-1] == "request 5f0c7a1e"


def test_the_node_s_own_word_for_a_name_wins() -> None:
    parts = footer_parts(reply(served_by="12D3KooWGjxp-abcd", served_by_name="be\x1ba"), {})
    assert parts[0] == "served by bea (12D3…abcd)"


def test_a_local_answer_has_no_hops_and_nothing_saved() -> None:
    told = reply(cached=0, route="local", hops=0, saved_ms=None)
    assert footer_parts(told, {}) == ["local", "0 of 640 prompt tokens cached"]


def test_an_answer_that_was_cut_off_says_so() -> None:
    assert footer_parts(reply("length", route="failed-over", hops=2), {}) == [
        "failed over, 2 hops",
        "612 of 640 prompt tokens cached",
        "cut off at the token limit",
    ]


def test_an_empty_reply_has_an_empty_footer() -> None:
    assert footer_parts(Reply("", "stop", {}, {}), {}) == []
