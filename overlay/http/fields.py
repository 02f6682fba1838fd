"""Typed fields out of a JSON object that a client sent; null counts as absent."""

from __future__ import annotations

import json
from typing import Final

from overlay.errors import InvalidRequest

#: Longest piece of a client's own value that an error message repeats.
_ECHO_CHARS_MAX: Final = 60


class Fields:
    """A JSON object and the name it has in error messages (empty for the body itself).

    Every reader raises InvalidRequest with the full name of the field as ``param``.
    """

    __slots__ = ("_path", "_values")

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            what = path or "the request's body"
            raise InvalidRequest(f"{what} must be a JSON object, not {kind(value)}", path or None)
        self._values: dict[object, object] = value
        self._path = path

    def name(self, field: str) -> str:
        """The field as the client would write it: ``hearth.route``."""
        return f"{self._path}.{field}" if self._path else field

    def value(self, field: str) -> object:
        """The field as it came, or None."""
        return self._values.get(field)

    def given(self, field: str) -> bool:
        """Whether the field asks for something: it is not null, false, 0 or empty."""
        return bool(self._values.get(field))

    def only(self, *allowed: str) -> None:
        """Refuse any field but these."""
        for field in self._values:
            if field not in allowed:
                name = self.name(str(field))
                raise InvalidRequest(
                    f"there is no field {echo(name)}: known are {', '.join(allowed)}", name
                )

    def number(self, field: str, default: float, low: float, high: float) -> float:
        """A number in ``[low, high]``."""
        value = self._values.get(field)
        if value is None:
            return default
        return number(value, self.name(field), low, high)

    def integer(self, field: str, low: int, high: int) -> int | None:
        """A whole number in ``[low, high]`` (``3.0`` is one), or None when absent."""
        value = self._values.get(field)
        if value is None:
            return None
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(whole, bool) or not isinstance(whole, int) or not low <= whole <= high:
            name = self.name(field)
            raise InvalidRequest(
                f"{name} must be a whole number from {low} to {high}, not {echo(value)}", name
            )
        return whole

    def flag(self, field: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self._values.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            name = self.name(field)
            raise InvalidRequest(f"{name} must be true or false, not {echo(value)}", name)
        return value

    def text(self, field: str, default: str | None = None) -> str | None:
        """A string, or the default when absent."""
        value = self._values.get(field)
        return default if value is None else text(value, self.name(field))


def number(value: object, name: str, low: float, high: float) -> float:
    """``value`` as a number in ``[low, high]``. Raises InvalidRequest."""
    # The comparison is written so that NaN fails it.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidRequest(
            f"{name} must be a number from {low:g} to {high:g}, not {echo(value)}", name
        )
    return float(value)


def text(value: object, name: str) -> str:
    """``value`` as a string of whole characters. Raises InvalidRequest."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string, not {kind(value)}", name)
    try:
        value.encode()
    except UnicodeEncodeError:
        # JSON can write half of a surrogate pair; no tokenizer and no wire can take it.
        raise InvalidRequest(f"{name} contains half a character (a lone surrogate)", name) from None
    return value


def kind(value: object) -> str:
    """What JSON calls the value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def echo(value: object) -> str:
    """The client's value, short and printable, for an error message."""
    if isinstance(value, dict | list):
        return kind(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    shown = ascii(value) if isinstance(value, str) else str(value)
    return shown if len(shown) <= _ECHO_CHARS_MAX else shown[:_ECHO_CHARS_MAX] + "..."
