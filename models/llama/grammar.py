"""Grammars (GBNF, llama.cpp's own notation) are read and judged here before llama.cpp gets them.

llama.cpp trusts a grammar: left recursion through rules that may be empty fills the memory, groups
nested deep overflow the stack, rules that expand to each other many times take for ever. A peer
may send any text, so this module reads it first, with limits, and says what is wrong with it.

What it cannot see: a grammar may be so ambiguous that its readings double with every character.
`models.llama.sampling` watches the time for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from overlay.errors import InvalidRequest

#: Where every grammar begins.
ROOT: Final = "root"
#: Groups inside groups: llama.cpp reads them with a function that calls itself.
NESTING_MAX: Final = 1024
#: llama.cpp's own limit on a repetition; it takes a larger upper bound for none.
REPETITIONS_MAX: Final = 2000
#: Symbols after repetitions are written out, as llama.cpp does: some hundred bytes for each.
SYMBOLS_MAX: Final = 100_000
#: Ways to go on from one place: llama.cpp follows them all.
WAYS_MAX: Final = 4096
#: How often something may be repeated that may be empty: every repetition is a way of its own.
EMPTY_REPETITIONS_MAX: Final = 8

_SPACE: Final = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES: Final = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME: Final = re.compile(r"[a-zA-Z0-9-]+")
_DEFINED: Final = re.compile(r"::=")
_ESCAPE: Final = r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[trn\\\"\[\]-])"
_LITERAL: Final = re.compile(rf'"((?:{_ESCAPE}|[^"\\])*)"')
_CHARACTERS: Final = re.compile(rf"\[\^?((?:{_ESCAPE}|[^\]\\])*)\]")
_TOKEN: Final = re.compile(r"!?<(?:\[\d{1,9}\]|[^>\r\n]{1,200})>")
_TIMES: Final = re.compile(r"\{\s*(\d{1,9})\s*(?:(,)\s*(\d{1,9})?\s*)?\}", re.ASCII)


@dataclass(slots=True)
class _Item:
    """A symbol: a terminal (``rule`` None), or a rule, ``times`` times at most in a row."""

    rule: str | None
    #: Characters of a literal: what is copied when it is repeated.
    size: int = 1
    times: int = 1
    optional: bool = False


@dataclass(slots=True)
class _Open:
    """A rule or a group that is being read."""

    name: str
    alternatives: list[list[_Item]] = field(default_factory=lambda: [[]])
    #: The item that a repetition would be about.
    last: _Item | None = None


def check_grammar(text: str) -> None:
    """Raises InvalidRequest, with the reason, for what llama.cpp cannot or should not take."""
    if "\0" in text:
        raise _broken("it contains a zero character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _broken("it contains half a character (a lone surrogate)") from None
    rules = _Reader(text).read()
    if ROOT not in rules:
        raise _broken(f"it has no rule named {ROOT}")
    _check_ways(rules, _empty_rules(rules))


class _Reader:
    """Reads the text into rules; groups and endless repetitions become rules of their own."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._rules: dict[str, list[list[_Item]]] = {}
        self._named: set[str] = set()
        self._symbols = 0
        self._groups = 0

    def read(self) -> dict[str, list[list[_Item]]]:
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._text):
            name = self._take(_NAME, "a rule's name").group()
            self._skip(_SPACE)
            self._take(_DEFINED, "::=")
            self._skip(_SPACE_AND_LINES)
            self._rule(name)
            self._skip(_SPACE_AND_LINES)
        for name in sorted(self._named - self._rules.keys()):
            raise _broken(f"there is no rule named {name[:40]}")
        return self._rules

    def _rule(self, name: str) -> None:
        """One rule up to the end of its line; inside groups lines may break."""
        stack = [_Open(name)]
        while self._at < len(self._text):
            here, char = stack[-1], self._text[self._at]
            if char in "\r\n":
                break
            if char == "(":
                self._at += 1
                self._groups += 1
                if len(stack) > NESTING_MAX:
                    raise self._wrong(f"groups are nested more than {NESTING_MAX} deep")
                stack.append(_Open(f"{name} {self._groups}"))
            elif char == ")":
                if len(stack) == 1:
                    raise self._wrong("there is no group to close")
                self._at += 1
                self._rules[here.name] = here.alternatives
                stack.pop()
                self._add(stack[-1], _Item(here.name))
            elif char == "|":
                self._at += 1
                here.alternatives.append([])
                here.last = None
                self._skip(_SPACE_AND_LINES)
                continue
            elif char in "*+?{":
                self._repeat(here)
            else:
                self._symbol(here)
            self._skip(_SPACE_AND_LINES if len(stack) > 1 else _SPACE)
        if len(stack) > 1:
            raise self._wrong("a group is not closed")
        self._rules[name] = stack[0].alternatives

    def _symbol(self, here: _Open) -> None:
        char = self._text[self._at]
        if char == '"':
            self._characters(here, self._take(_LITERAL, "a whole literal").group(1))
        elif char == "[":
            self._characters(here, self._take(_CHARACTERS, "whole characters").group(1))
        elif char in "<!":
            self._take(_TOKEN, "a token")
            self._add(here, _Item(None))
        elif char == ".":
            self._at += 1
            self._add(here, _Item(None))
        else:
            rule = self._take(_NAME, "a symbol").group()
            self._named.add(rule)
            self._add(here, _Item(rule))

    def _characters(self, here: _Open, inside: str) -> None:
        if inside:
            self._add(here, _Item(None, size=len(inside)))
        else:
            here.last = None  # "" adds nothing, so there is nothing to repeat

    def _add(self, here: _Open, item: _Item) -> None:
        here.alternatives[-1].append(item)
        here.last = item
        self._count(item.size + 1)

    def _repeat(self, here: _Open) -> None:
        item = here.last
        if item is None:
            raise self._wrong("there is nothing to repeat")
        char = self._text[self._at]
        least: int = char == "+"
        most: int | None = 1 if char == "?" else None
        if char == "{":
            found = self._take(_TIMES, "a repetition like {2,5}")
            least = int(found[1])
            if found[3] is not None:
                most = int(found[3])
            else:
                most = None if found[2] else least
            if most is not None and most < least:
                raise self._wrong(f"a repetition of {least} to {most} times")
            if least > REPETITIONS_MAX:
                raise self._wrong(f"more than {REPETITIONS_MAX} repetitions")
            if most is not None and most > REPETITIONS_MAX:
                most = None
        else:
            self._at += 1
        copies = least + 1 if most is None else most
        self._count(copies * (item.size + 3))
        # Rules for what is repeated and for its repetition, so that both can be repeated again.
        self._groups += 1
        once, many = f"{here.name} {self._groups}", f"{here.name} {self._groups} times"
        self._rules[once] = [[_Item(item.rule, item.size)]]
        if most is not None:
            self._rules[many] = [[_Item(once, times=max(1, copies), optional=least == 0)]]
        else:
            # S* is a rule S' ::= S S' | : with an empty S it would call itself for ever.
            more = f"{many} more"
            self._rules[more] = [[_Item(once), _Item(more)], []]
            self._rules[many] = [[*[_Item(once, times=least)][: least > 0], _Item(more)]]
        item.rule, item.size = many, item.size * max(1, copies)

    def _count(self, symbols: int) -> None:
        self._symbols += symbols
        if self._symbols > SYMBOLS_MAX:
            raise self._wrong(f"with its repetitions it has more than {SYMBOLS_MAX} symbols")

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        assert found is not None, "it matches nothing, too"
        self._at = found.end()

    def _take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            seen = self._text[self._at : self._at + 10]
            raise self._wrong(f"expected {what}, not {seen!a}" if seen else f"expected {what}")
        self._at = found.end()
        return found

    def _wrong(self, what: str) -> InvalidRequest:
        line = self._text.count("\n", 0, self._at) + 1
        return _broken(f"{what} (line {line})")


def _empty_rules(rules: dict[str, list[list[_Item]]]) -> set[str]:
    """The rules that may stand for no text at all."""
    empty: set[str] = set()
    #: By the rule that they wait for: alternatives that are empty so far, and what is left of them.
    waiting: dict[str, list[tuple[str, Iterator[_Item]]]] = {}
    todo = [(name, iter(items)) for name, choices in rules.items() for items in choices]
    while todo:
        name, items = todo.pop()
        if name in empty:
            continue
        full = next((item for item in items if not _may_be_empty(item, empty)), None)
        if full is None:
            empty.add(name)
            todo += waiting.pop(name, ())
        elif full.rule is not None:
            waiting.setdefault(full.rule, []).append((name, items))
    return empty


def _may_be_empty(item: _Item, empty: set[str]) -> bool:
    return item.optional or item.rule in empty


def _check_ways(rules: dict[str, list[list[_Item]]], empty: set[str]) -> None:
    """Counts, for every place in a rule, the ways to its next characters; refuses loops.

    A loop is a rule that comes back to itself before it has read a character.
    """
    ways: dict[str, int] = {}
    for first in rules:
        stack, path = [(first, False)], set[str]()
        while stack:
            name, beginnings_known = stack.pop()
            if beginnings_known:
                path.discard(name)
                ways[name] = sum(_ways_from(items, ways, empty) for items in rules[name])
                _limit_ways(name, ways[name])
            elif name in path:
                raise _broken(f"the rule {_shown(name)} begins with itself (left recursion)")
            elif name not in ways:
                path.add(name)
                stack.append((name, True))
                stack += [(begun, False) for begun in _begins_with(rules[name], empty)]
    for name, alternatives in rules.items():
        for items in alternatives:
            after = 0
            for item in reversed(items):
                if item.rule in empty and item.times > EMPTY_REPETITIONS_MAX:
                    raise _broken(f"in the rule {_shown(name)} {item.times} things may be empty")
                after = _ways_into(item, ways, empty) + (after if _may_be_empty(item, empty) else 0)
                _limit_ways(name, after)


def _begins_with(alternatives: list[list[_Item]], empty: set[str]) -> set[str]:
    found = set()
    for items in alternatives:
        for item in items:
            if item.rule is not None:
                found.add(item.rule)
            if not _may_be_empty(item, empty):
                break
    return found


def _ways_from(items: list[_Item], ways: dict[str, int], empty: set[str]) -> int:
    total = 0
    for item in items:
        total += _ways_into(item, ways, empty)
        if not _may_be_empty(item, empty):
            return total
    return total + 1


def _ways_into(item: _Item, ways: dict[str, int], empty: set[str]) -> int:
    if item.rule is None:
        return 1
    # One that may be empty leads on to its next repetition.
    return ways[item.rule] * (item.times if item.rule in empty else 1)


def _limit_ways(name: str, ways: int) -> None:
    if ways > WAYS_MAX:
        raise _broken(f"the rule {_shown(name)} has more than {WAYS_MAX} ways to go on")


def _shown(name: str) -> str:
    return name.split(" ")[0][:40]


def _broken(why: str) -> InvalidRequest:
    return InvalidRequest(f"The grammar cannot be used: {why}.", "grammar")
