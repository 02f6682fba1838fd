from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from overlay.errors import ConfigError
from overlay.sim.workloads.parameters import Parameters, Span, at_least, described, made


@dataclass(frozen=True)
class Odd(Parameters):
    count: int = 3
    share: float = 0.5
    length: Span = Span(30, 60)

    def __post_init__(self) -> None:
        at_least(1, count=self.count)


def test_parameters_are_typed() -> None:
    assert made(Odd, "") == Odd()
    assert made(Odd, "count=7, share=1.25,length=45") == Odd(7, 1.25, Span(45, 45))
    assert made(Odd, "length=1..9").length == Span(1, 9)


def test_a_name_makes_the_same_again() -> None:
    odd = Odd(7, length=Span(1, 9))
    assert odd.name == "odd:count=7,length=1..9"
    assert made(Odd, odd.name.partition(":")[2]) == odd
    assert Odd().name == "odd"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("size=3", "odd has no parameter 'size=3': .*count=3, share=0.5, length=30..60"),
        ("count", "odd has no parameter 'count'"),
        ("count=1,count=2", "count is given twice"),
        ("count=-1", "count=-1: give a whole number"),
        ("count=1.5", "count=1.5: give a whole number"),
        ("count=0", "count=0: must be 1 or more"),
        ("share=-1", "share=-1: give a number"),
        ("share=nan", "share=nan: give a number"),
        ("share=1e9", "share=1e9: give a number from 0 to 100,000"),
        ("count=999999999", "count=999999999: give a whole number from 0 to"),
        ("share=much", "share=much: give a number"),
        ("length=9..3", "length=9..3: give a length"),
        ("length=", "length=: give a length"),
    ],
)
def test_what_is_wrong_is_said(written: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(Odd, written)


def test_the_defaults_are_described() -> None:
    assert described(Odd) == "count=3, share=0.5, length=30..60"


def test_spans_include_both_ends() -> None:
    dice = random.Random(1)
    assert {Span(2, 4).draw(dice) for _ in range(100)} == {2, 3, 4}
    assert Span(5, 5).draw(dice) == 5
