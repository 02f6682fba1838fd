"""How much of a prompt a step computes, and who waits for whose block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from models.engine import GenerationRequest, Sampling
from models.llama.chunks import CHUNK_MIN, CHUNK_UNMEASURED, TILE, chunk, cut, same_ahead
from models.llama.run import Run
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.prefix.node import Node

HERE, THERE = (cast(Node, object()) for _ in range(2))


def test_a_step_takes_its_time_whatever_the_speed() -> None:
    assert chunk(0, streaming=False) == chunk(0, streaming=True) == CHUNK_UNMEASURED
    assert chunk(1000, streaming=False) == 1024
    assert chunk(1000, streaming=True) == 256
    assert chunk(1, streaming=False) == TILE
    assert chunk(1, streaming=True) == CHUNK_MIN


def run(length: int, computed: int, pause: int | None = None) -> Run:
    nothing = cast(Any, None)
    request = GenerationRequest(b"r", (1,) * length, Sampling())
    made = Run(request, 0, 0.0, [1] * length, nothing, "", 0)
    made.computed, made.pause = computed, pause
    return made


@pytest.mark.parametrize(
    ("length", "computed", "budget", "pause", "count"),
    [
        (200, 0, 100, None, 64),
        (200, 0, 300, None, 192),
        (200, 192, 100, None, 8),
        (200, 192, 5, None, 5),
        (200, 10, 20, None, 20),  # less than up to the next tile
        (200, 10, 100, None, 54),
        (64, 0, 100, None, 63),  # the last one alone, as when all else is cached
        (200, 0, 100, 50, 50),
        (200, 40, 100, 50, 10),
        (200, 0, 100, 150, 64),
        (60, 40, 100, 50, 10),
    ],
)
def test_a_prompt_is_cut_at_tiles_and_where_its_cache_wants_to_see_it(
    length: int, computed: int, budget: int, pause: int | None, count: int
) -> None:
    assert cut(run(length, computed, pause), budget) == count


@dataclass
class Placed:
    tokens: Sequence[int]
    computed: int = 0
    node: Node | None = HERE

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed


BLOCK = [1] * BLOCK_TOKENS


def test_who_needs_the_same_block_next_waits_for_it() -> None:
    one = Placed([*BLOCK, 2])
    assert same_ahead(one, Placed([*BLOCK, 3, 4]))
    assert not same_ahead(one, Placed([*BLOCK[1:], 2, 2])), "another block"
    assert not same_ahead(one, Placed([*BLOCK, 2], node=THERE)), "after something else"
    assert not same_ahead(one, Placed([9, *BLOCK, 2], computed=1)), "at another place"
    assert not same_ahead(Placed(BLOCK), Placed(BLOCK)), "the last token is each one's own"
    nowhere = Placed([*BLOCK, 2], node=None)
    assert not same_ahead(nowhere, nowhere)
