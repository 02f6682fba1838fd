"""The form an answer must have: a grammar, or a JSON schema, in any of the ways to ask for it."""

from __future__ import annotations

import json

from overlay.errors import InvalidRequest
from overlay.http.fields import Fields, echo
from overlay.limits import GRAMMAR_CHARS_MAX


def parse_form(fields: Fields) -> tuple[str, str]:
    """Grammar and JSON schema that a body asks for; at most one of them is not empty.

    ``grammar`` and ``json_schema`` are llama.cpp's server's, ``response_format`` is OpenAI's.
    Raises InvalidRequest.
    """
    asked = {
        "grammar": fields.text("grammar") or "",
        "json_schema": _schema(fields.value("json_schema"), "json_schema"),
        "response_format": _response_format(fields.value("response_format")),
    }
    given = [name for name, form in asked.items() if form]
    if len(given) > 1:
        raise InvalidRequest(f"{given[0]} and {given[1]} do not go together", given[1])
    for name in given:
        if len(asked[name]) > GRAMMAR_CHARS_MAX:
            raise InvalidRequest(
                f"{name} has {len(asked[name])} characters; {GRAMMAR_CHARS_MAX} are allowed", name
            )
    return asked["grammar"], asked["json_schema"] or asked["response_format"]


def _response_format(value: object) -> str:
    """Its schema; empty for text."""
    if value is None:
        return ""
    fields = Fields(value, "response_format")
    match fields.value("type"):
        case "text":
            return ""
        case "json_object":
            # llama.cpp's server takes a schema here, too.
            return _schema(fields.value("schema"), fields.name("schema")) or "{}"
        case "json_schema":
            named = Fields(fields.value("json_schema"), fields.name("json_schema"))
            schema = _schema(named.value("schema"), named.name("schema"))
            if not schema:
                raise InvalidRequest(f"{named.name('schema')} is missing", named.name("schema"))
            return schema
        case other:
            name = fields.name("type")
            raise InvalidRequest(
                f"{name} must be text, json_object or json_schema, not {echo(other)}", name
            )


def _schema(value: object, name: str) -> str:
    """The schema as JSON again; empty if there is none."""
    if value is None:
        return ""
    Fields(value, name)  # it must be an object
    try:
        return json.dumps(value, separators=(",", ":"))
    except RecursionError:
        raise InvalidRequest(f"{name} is nested too deep", name) from None
