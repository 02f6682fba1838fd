"""JSON schemas to grammars: llama-cpp-python's converter, kept from what it does not check itself.

The converter is a program on a schema that a peer may have written: it repeats what the schema
says as often as it says, and loops for ever on some patterns. So it is given only what has been
looked at, and is stopped when it writes too much.
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import unquote

from llama_cpp.llama_grammar import PRIMITIVE_RULES, BuiltinRule, SchemaConverter

from models.llama.json_pattern import PIECE, json_pattern
from overlay.errors import InvalidRequest

#: Items, characters and repetitions in patterns that a schema counts out, in all.
REPETITIONS_MAX: Final = 2000
#: Properties in all; those that are optional cost the square of their number. As many may be
#: required: the names are gone through each time that ``allOf`` puts two schemas together.
PROPERTIES_MAX: Final = 512
#: What the converter may write.
RULES_MAX: Final = 50_000
RULES_CHARS_MAX: Final = 1 << 20

_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength")
_ANNOTATIONS: Final = frozenset({"title", "description", "default", "examples", "deprecated"})
#: What binds the answer; all else is for people and other programs.
_BINDING: Final = frozenset(
    ("type", "properties", "required", "additionalProperties", "items", "prefixItems", "pattern")
) | {"format", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", *_COUNTS}
#: Putting two schemas together takes as long as writing so many rules, and one for each property.
_MERGE_RULES: Final = 20
#: A character of a JSON string; the converter's own rule lets control characters through.
_CHAR: Final = BuiltinRule(
    PRIMITIVE_RULES["char"].content.replace(r'[^"\\]', r'[^"\\\x00-\x1F\x7F]', 1)
)
_LITERAL_ESCAPES: Final = {ord("\r"): r"\r", ord("\n"): r"\n", ord('"'): r"\"", ord("\\"): r"\\"}


def schema_grammar(text: str) -> str:
    """The grammar (GBNF) of the JSON that a schema, itself JSON, allows.

    What the converter does not know (``minimum``, ``uniqueItems``…) does not bind the answer.
    Raises InvalidRequest with the reason.
    """
    try:
        schema = json.loads(text)
        _check(schema)
        converter: Any = _Converter(schema)
        converter.visit(schema, "")
        return str(converter.format_grammar())
    except InvalidRequest:
        raise
    except RecursionError:
        raise _broken("it is nested too deep") from None
    except Exception as error:  # whatever the converter stumbles over, the schema is at fault
        said = str(error) if isinstance(error, ValueError | AssertionError) else repr(error)
        # It may quote half a character, of which no UTF-8 can be made on its way out of here.
        said = said.encode("ascii", "backslashreplace").decode()
        raise _broken(said[:200] or type(error).__name__) from None


class _Converter(SchemaConverter):
    """Counts what it writes, and writes constants, names and strings as JSON has them.

    The original forgets to escape backslashes, lets control characters into strings, and would
    have the model spell \\u00e9 for é. Where anything is allowed it knows no ``true``, and takes
    ``{}`` for an object. It finds no references beside one, and takes a property for what a
    reference of the same name leads to. Of what may have several types or names alternatives, it
    forgets all else, as of ``allOf`` all but properties; and the comma before unnamed ones.
    """

    def __init__(self, schema: object) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False
        )
        self._refs = _References(schema)
        #: By reference, the rule of what it leads to.
        self._referred: dict[str, str] = {}
        #: Rules of properties that no name is given for.
        self._further: set[str] = set()
        self._written = 0
        self._chars = 0

    def visit(self, schema: Any, name: str) -> str:
        if schema is True or (name and _allows_anything(schema)):
            return self._add_primitive("value", PRIMITIVE_RULES["value"])
        if "allOf" in _object(schema):
            return self.visit(self._merged(schema), name)
        key: str = super().visit(_spelled_out(schema), name)  # type: ignore[no-untyped-call]
        return key

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Of a schema with ``allOf``, one without that says the same."""
        parts = [_binding(part) for part in (_without(schema, "allOf"), *schema["allOf"])]
        parts = [part for part in parts if part]
        if len(parts) == 1:  # A reference, which may lead back here, stays one.
            return parts[0]
        merged: dict[str, Any] = {}
        for part in parts:
            plain = self._plain(part)
            self._spend(_MERGE_RULES + len(plain.get("properties", ())))
            for name, value in plain.items():
                _merge(merged, name, value)
        return merged

    def _plain(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The same without references and ``allOf``, but for what is within."""
        if "$ref" in schema:
            return self._plain(_binding(self._refs[schema["$ref"]]))
        return self._plain(self._merged(schema)) if "allOf" in schema else schema

    def _spend(self, rules: int, chars: int = 0) -> None:
        self._written += rules
        self._chars += chars
        if self._written > RULES_MAX or self._chars > RULES_CHARS_MAX:
            raise _broken("it is too large")

    def _resolve_ref(self, ref: str) -> str:
        if ref not in self._referred:
            # It may lead back here, so its rule has a name first.
            key = self._referred[ref] = self._add_rule("ref", ref)
            self._rules[key] = self.visit(self._refs[ref], key)
        return self._referred[ref]

    def _add_primitive(self, name: str, rule: BuiltinRule) -> str:
        key: str = super()._add_primitive(name, _CHAR if name == "char" else rule)
        return key

    def _format_literal(self, literal: str) -> str:
        plain = json.dumps(json.loads(literal), ensure_ascii=False)
        return f'"{plain.translate(_LITERAL_ESCAPES)}"'

    def _visit_pattern(self, pattern: str, name: str) -> str:
        key: str = super()._visit_pattern(json_pattern(pattern), name)  # type: ignore[no-untyped-call]
        return key

    def _add_rule(self, name: str, rule: str) -> str:
        if rule in self._further:  # They come after other properties.
            rule = f'( "," space {rule} )?'
        self._spend(1, len(name) + len(rule))
        key: str = super()._add_rule(name, rule)  # type: ignore[no-untyped-call]
        if name.endswith("additional-kvs"):
            self._further.add(key)
        return key


class _References(dict[str, Any]):
    """By reference (``#``, ``#/$defs/Town``), the part of the schema that it leads to."""

    def __init__(self, schema: object) -> None:
        self._schema = schema

    def __missing__(self, reference: str) -> Any:
        root, *steps = unquote(reference).split("/")
        if root != "#":
            raise _broken(f"$ref {reference[:40]!a} does not begin with #/")
        target: Any = self._schema
        for step in steps:
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(name) if isinstance(target, list) else name]
            except (LookupError, TypeError, ValueError):
                raise _broken(f"$ref {reference[:40]!a} leads nowhere") from None
        return target


def _allows_anything(schema: object) -> bool:
    """Whether it says at most what its values mean to people. Pydantic's ``Any`` has a title."""
    return schema is True or (isinstance(schema, dict) and schema.keys() <= _ANNOTATIONS)


def _binding(schema: Any) -> dict[str, Any]:
    """What of a schema binds the answer."""
    said = {} if schema is True else _object(schema)
    return {name: value for name, value in said.items() if name in _BINDING}


def _object(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise _broken(f"{json.dumps(schema)[:40]} stands where a schema should")
    return schema


def _without(schema: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in names}


def _merge(into: dict[str, Any], name: str, value: Any) -> None:
    """Have a schema say of ``name`` what another says, too."""
    said = into.setdefault(name, value)
    if said == value:
        return
    if name == "properties":
        both = {each: {"allOf": [said[each], value[each]]} for each in said.keys() & value.keys()}
        into[name] = {**said, **value, **both}
    elif name == "required":
        into[name] = list(dict.fromkeys(said + value))
    elif name == "additionalProperties":
        into[name] = False
    else:
        raise _broken(f"allOf says two things of {name[:40]!a}")


def _spelled_out(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, so that the converter hears all that it says."""
    if "$ref" in schema:
        return schema
    if either := next((name for name in ("anyOf", "oneOf") if name in schema), ""):
        if "properties" not in schema:
            return schema
        rest = _without(schema, either)
        return {"anyOf": [{"allOf": [rest, each]} for each in schema[either]]}
    if isinstance(types := schema.get("type"), list):
        rest = _without(schema, "type")
        named = schema.keys() & {"const", "enum"}
        return rest if named else {"anyOf": [{**rest, "type": each} for each in types]}
    if "prefixItems" in schema:
        return _without(schema, "items")  # It is for what comes after them.
    if _allows_anything(schema.get("items", types == "array")):
        return {**schema, "items": True}
    further = schema.get("additionalProperties", True)
    is_object = types == "object" or "properties" in schema
    if is_object and schema.get("required") and further is not False:
        unnamed = dict.fromkeys(schema["required"], further)
        return {**schema, "properties": {**unnamed, **schema.get("properties", {})}}
    return schema


def _check(schema: object) -> None:
    """Refuse what the converter would take too much time or memory for, or get wrong."""
    if not isinstance(schema, dict):
        raise _broken("it must be a JSON object")
    repetitions = properties = required = 0
    todo: list[Any] = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
        if not isinstance(node, dict):
            continue
        todo += node.values()
        for name in _COUNTS:
            # A schema of that name is a property called so.
            if name in node and not isinstance(node[name], dict):
                repetitions += _count(node[name], name)
        if isinstance(pattern := node.get("pattern"), str):
            repetitions += _pattern_repetitions(pattern)
        if isinstance(named := node.get("properties"), dict):
            properties += len(named)
            if "" in named:
                raise _broken("a property has no name")
        if isinstance(names := node.get("required"), list):
            required += len(names)
            if "" in names:
                raise _broken("a property has no name")
    if repetitions > REPETITIONS_MAX:
        raise _broken(f"it counts out more than {REPETITIONS_MAX} repetitions")
    if properties > PROPERTIES_MAX:
        raise _broken(f"it has {properties} properties; {PROPERTIES_MAX} are allowed")
    if required > PROPERTIES_MAX:
        raise _broken(f"it requires {required} properties; {PROPERTIES_MAX} are allowed")


def _count(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= REPETITIONS_MAX:
        raise _broken(f"{name} must be a whole number from 0 to {REPETITIONS_MAX}")
    return value


def _pattern_repetitions(pattern: str) -> int:
    """At most so many repetitions does the pattern expand to, if they are nested."""
    total = 1
    for piece in PIECE.finditer(pattern):
        if piece.group() in ("]", "}", "[", "{"):
            raise _broken("a bracket in a pattern has no partner")
        if piece["times"] is not None:
            bounds = [int(bound) for bound in piece["times"].split(",") if bound]
            total *= max([1, *bounds])
            if total > REPETITIONS_MAX:
                raise _broken(f"a pattern with more than {REPETITIONS_MAX} repetitions")
    return total - 1


def _broken(why: str) -> InvalidRequest:
    return InvalidRequest(f"The JSON schema cannot be used: {why}.", "json_schema")
