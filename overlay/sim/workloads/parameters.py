"""Parameters of workloads: typed by the fields of a frozen dataclass, written ``name=value``."""

from __future__ import annotations

import random
import re
from dataclasses import MISSING, dataclass, fields
from typing import Any, Final, NamedTuple, TypeVar

from overlay.errors import ConfigError


class Span(NamedTuple):
    """A length drawn from ``low`` to ``high`` tokens, both included; written ``30..60``."""

    low: int
    high: int

    def draw(self, dice: random.Random) -> int:
        return dice.randint(self.low, self.high)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}..{self.high}"


@dataclass(frozen=True)
class Parameters:
    """Base of workloads that are made of parameters. Every field has a default."""

    @property
    def name(self) -> str:
        """``zipf:skew=1.2``: the kind, and each parameter that is not at its default."""
        given = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        kind = type(self).__name__.lower()
        return f"{kind}:{','.join(given)}" if given else kind


P = TypeVar("P", bound=Parameters)

#: More of anything fits neither into memory nor, as an answer's length, into a text.
_FLOAT_MAX: Final = 100_000
_KINDS: Final = {
    "int": "a whole number from 0 to 9,999,999",
    "float": f"a number from 0 to {_FLOAT_MAX:,}",
    "Span": "a length in tokens, such as 45, or a range such as 30..60",
}


def made(kind: type[P], written: str) -> P:
    """``kind`` with the parameters ``written``, as in ``skew=1.2,groups=200``.

    Raises ConfigError, which lists the parameters that exist.
    """
    known = {field.name: field for field in fields(kind)}
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in written.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in known:
            raise ConfigError(
                f"{kind.__name__.lower()} has no parameter {part!r}: write NAME=VALUE with one "
                f"of {described(kind)}"
            )
        if name in values:
            raise ConfigError(f"{name} is given twice")
        assert known[name].default is not MISSING
        values[name] = _read(name, str(known[name].type), value)
    return kind(**values)


def described(kind: type[Parameters]) -> str:
    """The parameters and their defaults, as one would write them."""
    return ", ".join(f"{field.name}={field.default}" for field in fields(kind))


def _read(name: str, kind: str, value: str) -> int | float | Span:
    try:
        if kind == "int" and re.fullmatch(r"\d{1,7}", value):
            return int(value)
        if kind == "float" and 0 <= (number := float(value)) <= _FLOAT_MAX:
            return number
        if kind == "Span" and (found := re.fullmatch(r"(\d{1,7})(?:\.\.(\d{1,7}))?", value)):
            span = Span(int(found[1]), int(found[2] or found[1]))
            if span.low <= span.high:
                return span
    except ValueError:
        pass
    raise ConfigError(f"{name}={value}: give {_KINDS[kind]}")


def at_least(least: float, **values: float) -> None:
    """Raise ConfigError for the first of ``values`` that is below ``least``."""
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{name}={value}: must be {least:g} or more")
