"""What is wrong with a grammar is said before llama.cpp sees it."""

from __future__ import annotations

import llama_cpp.llama_grammar as library
import pytest

from models.llama import grammar
from models.llama.grammar import check_grammar
from overlay.errors import InvalidRequest

LIBRARY = sorted(name for name in vars(library) if name.endswith("_GBNF"))


@pytest.mark.parametrize("name", LIBRARY)
def test_the_librarys_own_grammars_are_good(name: str) -> None:
    check_grammar(getattr(library, name))


@pytest.mark.parametrize(
    "text",
    [
        'root ::= "yes" | "no" # a comment\n',
        '# first\n\nroot ::=\n  item (\n  [,;] item\n)* "\\"" | # broken\n  .\r\nitem ::= [^\\]-]+',
        'root ::= "a"{3} b{2,} b{0,3}\nb ::= [\\x41-\\u00e9]',
        'root ::= "" | <[12]> !<think>',
        "root ::= " + "(" * 1000 + '"a"' + ")" * 1000,
        "root ::= " + " | ".join(f'"{word}"' for word in range(4000)),
        'root ::= "a" root | "b"',
        'root ::= (("a"+)?)',
        'root ::= "a"{1,50000}',
    ],
)
def test_good_grammars(text: str) -> None:
    check_grammar(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no rule named root"),
        ("# nothing", "no rule named root"),
        ('a ::= "x"', "no rule named root"),
        ("root ::= x | y", "no rule named x"),
        ("root", "expected ::="),
        ('root ::= "a', "expected a whole literal"),
        ("root ::= [a", "expected whole characters"),
        (r'root ::= "\q"', "expected a whole literal"),
        ("root ::= <a", "expected a token"),
        ("root ::= _", "expected a symbol"),
        ("root ::= *", "nothing to repeat"),
        ('root ::= ""*', "nothing to repeat"),
        ('root ::= "a" | +', "nothing to repeat"),
        ('root ::= "a"{x}', "expected a repetition"),
        ('root ::= "a"{3,2}', "3 to 2 times"),
        ('root ::= "a"{2001}', "more than 2000 repetitions"),
        ('root ::= ("a"', "a group is not closed"),
        ('root ::= "a")', "no group to close"),
        ('root ::= "a"\0', "a zero character"),
        ('root ::= "\ud800"', "half a character"),
        ('\nroot ::= "a"\nb ::= )', "line 3"),
        ('root ::= root "a" | "b"', "left recursion"),
        ('root ::= a\na ::= b "x"\nb ::= root', "left recursion"),
        ("root ::= " + "(" * 60_000, "nested"),
        ('root ::= "a"{2000}{2000}', "symbols"),
        ('root ::= "' + "a" * 1000 + '"{2000}', "symbols"),
    ],
)
def test_broken_grammars(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        check_grammar(text)
    assert caught.value.param == "grammar"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param('root ::= a root\na ::= b\nb ::= ""', "left recursion", id="behind an empty"),
        pytest.param('root ::= ("a"?)*', "left recursion", id="endless nothing"),
        pytest.param('root ::= (a)+\na ::= b\nb ::= "x"?', "left recursion", id="endless rule"),
        pytest.param('root ::= ("a"? "b"?){500}', "500 things may be empty", id="many empty"),
        pytest.param(
            "\n".join(f"a{n} ::= a{n + 1} | a{n + 1}" for n in range(60))
            + '\na60 ::= "x"\nroot ::= a0',
            "ways to go on",
            id="doubling",
        ),
    ],
)
def test_what_llama_cpp_would_not_survive(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        check_grammar(text)


def test_every_rule_is_looked_at_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def counted(item: grammar._Item, empty: set[str]) -> bool:
        nonlocal looks
        looks += 1
        return item.optional or item.rule in empty

    monkeypatch.setattr(grammar, "_may_be_empty", counted)
    chain = "\n".join(f"a{n} ::= a{n + 1}" for n in range(2000))
    check_grammar(f'root ::= "x"\n{chain}\na2000 ::= ""')
    assert looks < 20_000
