"""The parser: what OpenAI clients send, and anything else that is JSON."""

from __future__ import annotations

import contextlib
import gc
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engine import Message, Sampling
from overlay.errors import InvalidRequest
from overlay.http.backend import Ask, Route
from overlay.http.parse import (
    Call,
    parse_chat,
    parse_completion,
    parse_invite,
    parse_join,
    parse_json,
    parse_request_id,
)
from overlay.limits import (
    ANSWERS_MAX,
    INVITE_TTL_S,
    LOGIT_BIAS_MAX,
    PROMPT_MESSAGES_MAX,
    STOP_STRINGS_MAX,
)

HI = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> Call:
    return parse_chat({"messages": HI, **fields})


def sampling(**fields: Any) -> Sampling:
    return chat(**fields).ask.sampling


def test_the_least_request_gives_the_defaults() -> None:
    assert chat() == Call(
        Ask(None, (Message("user", "hi"),), Sampling(), Route.MESH),
        stream=False,
        include_usage=False,
    )


def test_everything_at_once() -> None:
    call = chat(
        model="tiny",
        temperature=0,
        top_p=1,
        top_k=-1,
        min_p=0.1,
        typical_p=0.9,
        max_tokens=5,
        max_completion_tokens=7,
        stop=["a", "b"],
        seed=42,
        presence_penalty=-2,
        frequency_penalty=2,
        repeat_penalty=1.1,
        logit_bias={"7": -100, "3": 1.5},
        n=1,
        stream=True,
        stream_options={"include_usage": True},
        hearth={"route": "local", "explain": True},
    )
    assert call == Call(
        Ask(
            "tiny",
            (Message("user", "hi"),),
            Sampling(
                max_tokens=7,
                temperature=0.0,
                top_k=0,
                top_p=1.0,
                min_p=0.1,
                repeat_penalty=1.1,
                presence_penalty=-2.0,
                frequency_penalty=2.0,
                seed=42,
                stop=("a", "b"),
                logit_bias=((3, 1.5), (7, -100.0)),
                typical_p=0.9,
            ),
            Route.LOCAL,
            explain=True,
        ),
        stream=True,
        include_usage=True,
    )


def test_null_counts_as_absent_and_unknown_fields_are_ignored() -> None:
    nulls = dict.fromkeys(
        ["model", "temperature", "stop", "seed", "n", "stream", "tools", "hearth", "logit_bias"]
    )
    assert chat(**nulls, user="ada", store=True, metadata={"a": 1}) == chat()


def test_features_that_are_switched_off_are_no_reason_to_refuse() -> None:
    off = {"tools": [], "logprobs": False, "top_logprobs": 0, "response_format": {"type": "text"}}
    assert chat(**off, modalities=["text"], tool_choice="auto") == chat()


def test_roles_and_parts() -> None:
    call = parse_chat(
        {
            "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                {"role": "assistant", "content": "b", "tool_calls": []},
                {
                    "role": "tool",
                    "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}],
                },
            ]
        }
    )
    assert call.ask.prompt == (
        Message("system", "be brief"),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("tool", "c\nd"),
    )


def test_a_single_stop_string_is_a_list_of_one() -> None:
    assert sampling(stop="END").stop == ("END",)


@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1, 2**63 - 1, -(2**63)])
def test_no_seed_becomes_the_engines_word_for_a_random_one(seed: int) -> None:
    folded = sampling(seed=seed).seed
    assert folded is not None
    assert 0 <= folded < 2**32 - 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": HI * (PROMPT_MESSAGES_MAX + 1)}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{}] * (PROMPT_MESSAGES_MAX + 1)}]},
            "messages[0].content",
        ),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [*HI, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": [], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
            "messages[0].tool_calls",
        ),
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stop": ["x"] * (STOP_STRINGS_MAX + 1)}, "stop"),
        ({"logit_bias": []}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"9999999999": 1}}, "logit_bias"),
        ({"logit_bias": {"7": 101}}, "logit_bias[7]"),
        ({"logit_bias": {str(i): 1 for i in range(LOGIT_BIAS_MAX + 1)}}, "logit_bias"),
        ({"n": 0}, "n"),
        ({"n": ANSWERS_MAX + 1}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"hearth": "local"}, "hearth"),
        ({"hearth": {"route": "far"}}, "hearth.route"),
        ({"hearth": {"rout": "local"}}, "hearth.rout"),
        ({"hearth": {"explain": "yes"}}, "hearth.explain"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"typical_p": 1.1}, "typical_p"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_value_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert str(caught.value)


def test_completions() -> None:
    call = parse_completion({"prompt": "Once", "echo": False, "best_of": 1, "suffix": ""})
    assert call.ask.prompt == "Once"
    assert call.ask.sampling.max_tokens == 16
    assert parse_completion({"prompt": ["Once"]}) == call


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "best_of": 1, "n": 2}, "best_of"),
    ],
)
def test_bad_completions(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_completion(fields)
    assert caught.value.param == param


def test_log_probabilities() -> None:
    assert sampling(logprobs=True).logprobs == 0
    assert sampling(logprobs=True, top_logprobs=20).logprobs == 20
    assert sampling(logprobs=False, top_logprobs=0).logprobs is None
    for asked, told in ((None, None), (False, None), (0, 0), (5, 5)):
        call = parse_completion({"prompt": "a", "logprobs": asked})
        assert call.ask.sampling.logprobs == told


def test_several_answers() -> None:
    assert chat().n == chat(n=1).n == 1
    assert chat(n=ANSWERS_MAX).n == ANSWERS_MAX
    assert parse_completion({"prompt": "a", "n": 3, "best_of": 3}).n == 3


def test_invites_and_joins() -> None:
    order = parse_invite({})
    assert (order.ttl_s, order.uses, order.label) == (INVITE_TTL_S, 1, "")
    order = parse_invite({"ttl_s": 60, "uses": 3, "label": "for Bo"})
    assert (order.ttl_s, order.uses, order.label) == (60, 3, "for Bo")
    assert parse_join({"token": " hearth1abc\n"}) == "hearth1abc"
    for bad in ({"ttl_s": 0}, {"uses": 10_000}, {"label": "x" * 65}, {"ttl": 5}):
        with pytest.raises(InvalidRequest):
            parse_invite(bad)
    for bad in ({}, {"token": " "}, {"token": 3}):
        with pytest.raises(InvalidRequest):
            parse_join(bad)


@pytest.mark.parametrize("end", [b"1]", b""], ids=["json", "none"])
def test_a_body_of_countless_arrays_is_read_without_going_through_them_again(end: bytes) -> None:
    """The collector would, so often that 8 MiB of them held the loop up for seconds."""
    seen: list[str] = []

    def noted(phase: str, info: dict[str, int]) -> None:
        seen.append(phase)

    gc.callbacks.append(noted)
    try:
        with contextlib.suppress(InvalidRequest):
            parse_json(b"[" + b"[]," * 10_000 + end)
    finally:
        gc.callbacks.remove(noted)
    assert seen == []
    assert gc.isenabled()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe\xfd", b'{"a": NaN}', b"[" * 100_000, b"1" * 5000]
)
def test_bytes_that_are_no_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_json(body)


# --- Any JSON at all --------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
FIELDS = (
    "model temperature top_p top_k min_p n max_tokens max_completion_tokens seed tools "
    "presence_penalty frequency_penalty repeat_penalty logit_bias stream stream_options hearth "
    "response_format logprobs prompt echo suffix best_of modalities tool_choice"
)
SENSIBLE = SCALARS | st.sampled_from([0, 1, 1.0, "x", ["x"], {"route": "local"}, {"7": 1}, {}])
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool"]) | SCALARS
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text() | ANY_JSON}))
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": ROLES, "content": st.text() | PARTS | ANY_JSON}), max_size=3
)
NEARLY_REQUESTS = st.builds(
    lambda fields, messages, stop: {**fields, "messages": messages, "stop": stop},
    st.dictionaries(st.sampled_from(FIELDS.split()), SENSIBLE | ANY_JSON, max_size=2),
    st.just([{"role": "user", "content": "hi"}]) | MESSAGES,
    SENSIBLE | st.lists(st.text()),
)


@given(ANY_JSON | NEARLY_REQUESTS)
def test_any_json_is_a_request_or_an_invalid_one(body: object) -> None:
    for parse in (parse_chat, parse_completion):
        try:
            call = parse(body)
        except InvalidRequest:
            continue
        sampled = call.ask.sampling
        assert 0 <= sampled.temperature <= 2
        assert 0 <= sampled.top_p <= 1
        assert sampled.max_tokens is None or sampled.max_tokens >= 1
        assert all(sampled.stop)
        json.dumps([str(call.ask.prompt), sampled.stop], ensure_ascii=False).encode()


@given(ANY_JSON)
def test_json_survives_the_decoder_or_is_refused(value: object) -> None:
    try:
        decoded = parse_json(json.dumps(value).encode())
    except InvalidRequest:
        return
    assert decoded == value


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_an_invalid_request(body: bytes) -> None:
    try:
        value = parse_json(body)
    except InvalidRequest:
        return
    for parse in (parse_chat, parse_invite, parse_join):
        with contextlib.suppress(InvalidRequest):
            parse(value)


ID = "5f0c7a1e9b3d4c6f8a2e1d0b7c9f3a55"


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("latest", None),
        (ID, ID),
        (f"chatcmpl-{ID}", ID),
        (f"cmpl-{ID[:4]}", ID[:4]),
        (ID[:8].upper(), ID[:8]),
    ],
)
def test_what_a_request_may_be_called_by(text: str, beginning: str | None) -> None:
    assert parse_request_id(text) == beginning


@pytest.mark.parametrize("text", ["", "chatcmpl-", "hello", f"{ID}0", "5f 0c", "../status"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="beginning") as caught:
        parse_request_id(text)
    assert caught.value.param == "id"


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ({"messages": [{"content": "x"}]}, "not null"),
        ({"temperature": True}, "not true"),
        ({"n": False}, "not false"),
        ({"stream": "yes"}, "not 'yes'"),
    ],
)
def test_what_was_sent_is_told_in_words_of_json(change: dict[str, Any], ends: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{ends}$"):
        parse_chat({"messages": [{"role": "user", "content": "x"}], **change})
