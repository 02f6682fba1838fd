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
#: Properties in all; those that are optional cost the square of their number.
PROPERTIES_MAX: Final = 512
#: What the converter may write.
RULES_MAX: Final = 50_000
RULES_CHARS_MAX: Final = 1 << 20

_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength")
_ANNOTATIONS: Final = frozenset({"title", "description", "default", "examples", "deprecated"})
#: Beside these the converter reads nothing else.
_WHOLE: Final = frozenset({"$ref", "oneOf", "anyOf"})
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
    reference of the same name leads to. Of what may have several types, it forgets all else.
    """

    def __init__(self, schema: object) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False
        )
        self._refs = _References(schema)
        #: By reference, the rule of what it leads to.
        self._referred: dict[str, str] = {}
        self._written = 0
        self._chars = 0

    def visit(self, schema: Any, name: str) -> str:
        if schema is True or (name and _allows_anything(schema)):
            return self._add_primitive("value", PRIMITIVE_RULES["value"])
        if not isinstance(schema, dict):
            raise _broken(f"{json.dumps(schema)[:40]} stands where a schema should")
        if schema.keys() - _ANNOTATIONS == {"allOf"} and len(schema["allOf"]) == 1:
            return self.visit(schema["allOf"][0], name)  # Else it would be an object.
        key: str = super().visit(_spelled_out(schema), name)  # type: ignore[no-untyped-call]
        return key

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
        self._written += 1
        self._chars += len(name) + len(rule)
        if self._written > RULES_MAX or self._chars > RULES_CHARS_MAX:
            raise _broken("it is too large")
        key: str = super()._add_rule(name, rule)  # type: ignore[no-untyped-call]
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
    return isinstance(schema, dict) and schema.keys() <= _ANNOTATIONS


def _spelled_out(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, so that the converter hears all that it says."""
    if isinstance(types := schema.get("type"), list) and not schema.keys() & _WHOLE:
        rest = {name: value for name, value in schema.items() if name != "type"}
        named = schema.keys() & {"const", "enum"}
        return rest if named else {"anyOf": [{**rest, "type": each} for each in types]}
    unsaid = schema.get("type") == "array" and not schema.keys() & {"items", "prefixItems"}
    if unsaid or _allows_anything(schema.get("items")):
        return {**schema, "items": True}
    return schema


def _check(schema: object) -> None:
    """Refuse what the converter would take too much time or memory for, or get wrong."""
    if not isinstance(schema, dict):
        raise _broken("it must be a JSON object")
    repetitions = properties = 0
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
    if repetitions > REPETITIONS_MAX:
        raise _broken(f"it counts out more than {REPETITIONS_MAX} repetitions")
    if properties > PROPERTIES_MAX:
        raise _broken(f"it has {properties} properties; {PROPERTIES_MAX} are allowed")


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
