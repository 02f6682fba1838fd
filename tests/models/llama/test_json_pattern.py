"""What a translated pattern matches, in quotes, is a JSON string that the pattern allows."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.llama.grammar import check_grammar
from models.llama.json_pattern import json_pattern
from models.llama.json_schema import schema_grammar

PATTERNS = [
    r"^$",
    r"^.+$",
    r"^a|b$",
    r"^(yes|no){1,2}x?$",
    r"^\d{3}-[a-z]+\.\w*$",
    r"^\S\s\D\W$",
    r"^[ -~]*$",
    r"^[^,]{2}$",
    r"^[\d\-x.]+$",
    r"^[\]\[^-]$",
    r'^a"b\\c\n\x41\u00e9\/$',
    r'^["a]"+$',
    r"^é😀[Ѐ-ӿ😀-😂]$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(st.data())
def test_only_json_that_the_pattern_allows(pattern: str, data: st.DataObject) -> None:
    translated = re.compile(json_pattern(pattern))
    inside = data.draw(st.from_regex(translated, fullmatch=True))
    assert re.search(pattern, json.loads(f'"{inside}"'), re.ASCII)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_becomes_a_good_grammar(pattern: str) -> None:
    check_grammar(schema_grammar(json.dumps({"type": "string", "pattern": pattern})))


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (r"^.+$", "é 'x' 😀"),
        (r"^a|b$", "b"),
        (r"^\d{3}-[a-z]+\.\w*$", "123-abc.x_1"),
        (r'^a"b\\c\n\x41\u00e9\/$', 'a"b\\c\nAé/'),
        (r"^[ -~]*$", "a ! # [ ] ~"),
        (r"^[\]\[^-]$", "^"),
        (r"^\S\s\D\W$", "a b!"),
    ],
)
def test_what_stays_allowed(pattern: str, value: str) -> None:
    assert re.fullmatch(json_pattern(pattern), json.dumps(value, ensure_ascii=False)[1:-1])


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("abc", "must start"),
        ("^", "must start"),
        (r"^a\$", r"with \\"),
        (r"^\bfoo$", r"\\b"),
        (r"^(a)\1$", r"\\1"),
        (r"^[\D]$", r"\\D"),
        (r"^a$|^b$", "an anchor"),
        (r"^\ud83d$", "half a character"),
        ('^["]$', "no character"),
        ("^[]$", "no character"),
        ("^[z-a]$", "no character"),
    ],
)
def test_what_is_not_supported(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        json_pattern(pattern)
