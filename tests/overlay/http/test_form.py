"""Grammars and schemas, in all the ways that clients ask for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from overlay.errors import InvalidRequest
from overlay.http.fields import Fields
from overlay.http.form import parse_form
from overlay.limits import GRAMMAR_CHARS_MAX

SCHEMA = {"type": "object", "properties": {"é": {}}}


def form(**fields: Any) -> tuple[str, Any]:
    grammar, schema = parse_form(Fields(fields))
    return grammar, json.loads(schema) if schema else None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("", None)),
        ({"response_format": {"type": "text"}, "grammar": "", "json_schema": None}, ("", None)),
        ({"grammar": 'root ::= "a"'}, ('root ::= "a"', None)),
        ({"json_schema": SCHEMA}, ("", SCHEMA)),
        ({"json_schema": {}}, ("", {})),
        ({"response_format": {"type": "json_object"}}, ("", {})),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, ("", SCHEMA)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
            ("", SCHEMA),
        ),
    ],
)
def test_forms(fields: dict[str, Any], expected: tuple[str, Any]) -> None:
    assert form(**fields) == expected


DEEP: Any = {}
for _ in range(100_000):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"grammar": 3}, "grammar"),
        ({"grammar": "a" * (GRAMMAR_CHARS_MAX + 1)}, "grammar"),
        ({"grammar": "\ud800"}, "grammar"),
        ({"json_schema": "{}"}, "json_schema"),
        ({"json_schema": True}, "json_schema"),
        ({"json_schema": {"a": "a" * GRAMMAR_CHARS_MAX}}, "json_schema"),
        ({"json_schema": DEEP}, "json_schema"),
        ({"json_schema": {}, "grammar": "a"}, "json_schema"),
        ({"json_schema": {}, "response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object", "schema": []}}, "response_format.schema"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_forms(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        form(**fields)
    assert caught.value.param == param
