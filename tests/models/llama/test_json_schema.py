"""Schemas to grammars: what comes out is a grammar, and what goes in cannot do harm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.llama.grammar import check_grammar
from models.llama.json_schema import schema_grammar
from overlay.errors import InvalidRequest

LIST = {
    "$defs": {"item": {"type": "object", "properties": {"next": {"$ref": "#/$defs/item"}}}},
    "type": "array",
    "items": {"$ref": "#/$defs/item"},
    "minItems": 1,
    "maxItems": 300,
}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]},
        {"type": "array", "items": {"type": "string", "maxLength": 100}, "maxItems": 50},
        {"type": "string", "pattern": r"^[a-z]{2,30}(ab|c)*\]x$"},
        {"type": "string", "format": "date-time"},
        {"anyOf": [{"type": "null"}, {"const": 3}, {"enum": ["a", 1, None]}]},
        {
            "properties": {f"p{n}": {} for n in range(500)},
            "required": [f"p{n}" for n in range(500)],
        },
        {"properties": {"root": {}, "space": {}, "é": {}, "-": {}}},
        {"properties": {"minLength": {"type": "integer"}, "maxItems": {"type": "integer"}}},
        {"properties": {"any": True}},
        {"type": "array", "items": {}, "minItems": 1},
        LIST,
        {"$ref": "#/$defs/item", "$defs": LIST["$defs"]},  # as pydantic has a recursive model
        {"$defs": {"a_b[c]": {"items": {"$ref": "#/$defs/a_b%5Bc%5D"}}}, "$ref": "#/$defs/a_b[c]"},
        {"properties": {"parts": {"type": "array", "items": {"$ref": "#"}}}},
        {"allOf": [{"$ref": "#/a/x"}, {"$ref": "#/b/0"}], "a": {"x": {}}, "b": [{}]},
        {"allOf": [True, {"title": "Anything"}]},
    ],
)
def test_good_schemas_become_good_grammars(schema: dict[str, Any]) -> None:
    check_grammar(schema_grammar(json.dumps(schema)))


def test_constants_and_names_are_written_as_json_has_them() -> None:
    grammar = schema_grammar(json.dumps({"enum": ['a"b', "c\\d", "é\n"]}))
    assert grammar.startswith('root ::= "\\"a\\\\\\"b\\"" | "\\"c\\\\\\\\d\\"" | "\\"é\\\\n\\""')


@pytest.mark.parametrize("anything", [True, {}, {"title": "Note", "default": None}])
def test_where_anything_is_allowed_anything_is(anything: object) -> None:
    grammar = schema_grammar(json.dumps({"properties": {"a": anything}}))
    assert 'a-kv ::= "\\"a\\"" space ":" space value' in grammar


@pytest.mark.parametrize("reference", ["#/x/town", "#/x/string", "#/y~1z/town"])
def test_a_reference_is_never_taken_for_what_has_its_name(reference: str) -> None:
    definitions = {"town": {"const": 1}, "string": {"const": 1}}
    properties = {"town": {"type": "string"}, "home": {"$ref": reference}}
    schema = {"properties": properties, "x": definitions, "y/z": definitions}
    rules = dict(line.split(" ::= ") for line in schema_grammar(json.dumps(schema)).splitlines())
    assert rules[rules[rules["home"]]] == '"1"'


@pytest.mark.parametrize(
    ("several", "spelled_out"),
    [
        ({"type": ["string", "null"], "enum": ["C", None]}, {"enum": ["C", None]}),
        (
            {"type": ["object", "null"], "properties": {"a": {}}, "required": ["a"]},
            {"anyOf": [{"properties": {"a": {}}, "required": ["a"]}, {"type": "null"}]},
        ),
        (
            {"type": ["null", "array"], "items": {"const": 1}, "minItems": 2},
            {"anyOf": [{"type": "null"}, {"items": {"const": 1}, "minItems": 2}]},
        ),
        ({"type": "array", "minItems": 2}, {"items": True, "minItems": 2}),
    ],
)
def test_what_may_have_several_types_is_held_to_all_it_says(
    several: dict[str, Any], spelled_out: dict[str, Any]
) -> None:
    """So OpenAI's own examples write what may be absent."""
    assert schema_grammar(json.dumps(several)) == schema_grammar(json.dumps(spelled_out))


@pytest.mark.parametrize(
    ("schema", "spelled_out"),
    [
        (
            {"allOf": [{"type": "string"}, {"type": "string", "maxLength": 5}]},
            {"type": "string", "maxLength": 5},
        ),
        (  # inheritance
            {
                "type": "object",
                "properties": {"b": {"const": 1}},
                "required": ["b"],
                "allOf": [{"$ref": "#/$defs/base"}],
                "$defs": {"base": {"properties": {"a": {"const": 0}}, "required": ["a"]}},
            },
            {"properties": {"b": {"const": 1}, "a": {"const": 0}}, "required": ["b", "a"]},
        ),
        (
            {
                "allOf": [
                    {"properties": {"a": {"type": "string"}}},
                    {"properties": {"a": {"minLength": 2}}},
                ]
            },
            {"properties": {"a": {"type": "string", "minLength": 2}}},
        ),
        (
            {"properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            {
                "anyOf": [
                    {"properties": {"a": {}, "b": {}}, "required": ["a"]},
                    {"properties": {"a": {}, "b": {}}, "required": ["b"]},
                ]
            },
        ),
        ({"type": "object", "required": ["a"]}, {"properties": {"a": {}}, "required": ["a"]}),
        (
            {"type": "object", "required": ["a"], "additionalProperties": {}},
            {"properties": {"a": {}}, "required": ["a"], "additionalProperties": {}},
        ),
        (
            {"required": ["a", "b"], "properties": {"b": {}}, "additionalProperties": {"const": 1}},
            {
                "required": ["a", "b"],
                "properties": {"a": {"const": 1}, "b": {}},
                "additionalProperties": {"const": 1},
            },
        ),
        ({"prefixItems": [{"const": 1}], "items": {"const": 2}}, {"prefixItems": [{"const": 1}]}),
    ],
)
def test_what_is_said_in_several_places_binds_together(
    schema: dict[str, Any], spelled_out: dict[str, Any]
) -> None:
    assert schema_grammar(json.dumps(schema)) == schema_grammar(json.dumps(spelled_out))


def test_a_comma_stands_before_properties_that_no_name_is_given_for() -> None:
    schema = {"properties": {"a": {"const": 1}}, "additionalProperties": {"const": 2}}
    rules = dict(line.split(" ::= ") for line in schema_grammar(json.dumps(schema)).splitlines())
    assert rules["a-rest"] == '( "," space additional-kvs )?'
    assert rules["root"] == '"{" space  (a-kv a-rest | additional-kvs )? "}" space'


def test_a_reference_that_stands_alone_in_allof_is_that_reference() -> None:
    """So older pydantic writes one that has a default."""
    colour = {"allOf": [{"$ref": "#/x"}], "default": "red"}
    grammar = schema_grammar(json.dumps({"properties": {"c": colour}, "x": {"enum": ["red"]}}))
    assert grammar.startswith("c ::= ref\n")


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/a", "a": {"$ref": "#/a"}}])
def test_a_reference_to_itself_alone_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequest, match="left recursion"):
        check_grammar(schema_grammar(json.dumps(schema)))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ([], "must be a JSON object"),
        ({"type": "foo"}, "Unrecognized schema"),
        ({"type": "string", "pattern": "abc"}, "Pattern must start"),
        ({"type": "string", "pattern": "^]$"}, "a bracket"),
        ({"type": "string", "pattern": "^((a{100}){100}){100}$"}, "2000 repetitions"),
        ({"type": "string", "minLength": 10**9}, "minLength"),
        ({"type": "string", "minLength": "5"}, "minLength"),
        ({"type": "array", "items": {"type": "null"}, "maxItems": True}, "maxItems"),
        ({"anyOf": [{"type": "string", "maxLength": 1500}] * 2}, "2000 repetitions"),
        ({"$ref": "https://example.org/schema"}, "does not begin with #/"),
        ({"$ref": "#/$defs/a", "$defs": {}}, "'#/\\$defs/a' leads nowhere"),
        ({"$ref": "#/a/1", "a": [{}]}, "leads nowhere"),
        ({"$ref": "#town"}, "does not begin with #/"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "two things of 'type'"),
        ({"allOf": [{}, None]}, "null stands where a schema should"),
        ({"allOf": [{"$ref": "#/a"}, {"const": 1}], "a": {"$ref": "#/a"}}, "nested too deep"),
        ({"properties": {"": {}}}, "no name"),
        ({"required": [""], "additionalProperties": {"const": 1}}, "no name"),
        ({"properties": {f"p{n}": {} for n in range(400)}}, "too large"),
        ({"properties": {f"p{n}": {} for n in range(600)}}, "512 are allowed"),
        ({"allOf": [{"required": [f"p{n}"] * 200} for n in range(3)]}, "requires 600 properties"),
        ({"allOf": [{"required": ["a"]}, {"required": "abc"}]}, "can only concatenate list"),
        ({"enum": 5}, "not iterable"),
        ({"properties": {"a": False}}, "false stands where a schema should"),
        ({"anyOf": [None]}, "null stands where a schema should"),
    ],
)
def test_bad_schemas(schema: Any, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        check_grammar(schema_grammar(json.dumps(schema)))
    assert caught.value.param == "json_schema"


def test_a_reason_that_quotes_half_a_character_can_be_told() -> None:
    """The engine's process died of it, as none can be written as UTF-8."""
    with pytest.raises(InvalidRequest, match="half a character") as caught:
        schema_grammar(r'{"type": "string", "pattern": "^[\ud800-\udfff]$"}')
    str(caught.value).encode()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 2000 + "1" + "}" * 2000])
def test_bad_json(text: str) -> None:
    with pytest.raises(InvalidRequest):
        schema_grammar(text)


def test_a_schema_that_doubles_itself_is_stopped() -> None:
    definitions: dict[str, Any] = {"d40": {"properties": {"p": {"type": "null"}}}}
    for n in range(40):
        twice = [{"$ref": f"#/$defs/d{n + 1}"}] * 2
        definitions[f"d{n}"] = {"properties": {"p": {"allOf": twice}, "q": {"allOf": twice}}}
    schema = {"$defs": definitions, "allOf": [{"$ref": "#/$defs/d0"}]}
    with pytest.raises(InvalidRequest):
        schema_grammar(json.dumps(schema))
